"""What the README and the pages on handlers show works as it stands there."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

from trio_worker.handlers.chat.tools import load_tools

ROOT = Path(__file__).parent.parent


def text_of(document: str) -> str:
    return (ROOT / document).read_text(encoding="utf-8")


def blocks(document: str, language: str) -> list[str]:
    return re.findall(rf"(?ms)^```{language}\n(.*?)^```", text_of(document))


def run_pytest(directory: Path) -> str:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    result = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=120)
    return result.stdout + result.stderr


def test_the_handler_and_its_tests(tmp_path: Path) -> None:
    """The README's handler passes its test as it stands, and that of the page on testing in Trio's mode."""
    handler, test = blocks("README.md", "python")
    (async_test,) = blocks("docs/testing.md", "python")
    (tmp_path / "agent.py").write_text(handler, encoding="utf-8")
    (tmp_path / "test_agent.py").write_text(test, encoding="utf-8")
    output = run_pytest(tmp_path)
    assert "1 passed" in output, output
    (tmp_path / "test_agent.py").write_text(test + async_test, encoding="utf-8")
    output = run_pytest(tmp_path)
    assert "is async: write `trio_mode = true` into pytest.ini" in output
    (settings,) = re.findall(r"(?m)^printf .* > pytest\.ini$", "\n".join(blocks("docs/testing.md", "sh")))
    subprocess.run(["sh", "-c", settings], cwd=tmp_path, check=True)
    output = run_pytest(tmp_path)
    assert "2 passed" in output, output


def test_the_wrapped_handler() -> None:
    """What the page on handlers shows of it is the example, which has tests."""
    (wrapped,) = blocks("docs/handlers.md", "python")
    assert wrapped.removesuffix(" ...\n") in text_of("examples/wrapped.py")


def test_the_tool_of_a_model(tmp_path: Path) -> None:
    """The page on models shows one whose signature and docstring can be described."""
    (block,) = blocks("docs/chat.md", "python")
    (tmp_path / "tickets_of_the_page.py").write_text(block, encoding="utf-8")
    (tool,) = load_tools("tickets_of_the_page:tools", tmp_path)
    assert tool.name == "open_ticket"


def test_the_command_that_ci_runs() -> None:
    """It is the README's second block, and the only line that begins like that."""
    _demo, tests, *_others = blocks("README.md", "sh")
    begins = re.search(r'(?m)^test_command=\$\(grep -m 1 -E "(.+)" README\.md\)$', text_of(".ci/run"))
    assert begins is not None
    assert [line for line in text_of("README.md").splitlines() if re.search(begins[1], line)] == [
        tests.rstrip()
    ]


def test_the_help_and_the_exit_codes_agree() -> None:
    """`run --help` has each exit code of the page on running it, and no command's line is cut off."""
    from click.testing import CliRunner

    from trio_worker.cli import main

    text = " ".join(CliRunner().invoke(main, ["run", "--help"]).output.split())
    page = text_of("docs/running.md")
    paragraph = page.partition("`trio-worker run` exits with ")[2].partition("\n\n")[0].partition(".")[0]
    codes = re.findall(r"(?:^|[ ,])([0-4]) (?:when|after|for)", " ".join(paragraph.split()))
    assert codes == re.findall(r"[:,] ([0-9]) ", text.partition("Exit codes")[2]) == list("01234")
    assert "could not be stopped" in text
    assert "..." not in CliRunner().invoke(main, ["--help"]).output.partition("Commands:")[2]


def test_the_help_imports_nothing_big() -> None:
    """It is there in a tenth of a second, since no command's own needs are imported for it."""
    code = """if True:
        import sys
        from trio_worker.cli import main
        try:
            main(["--help"])
        finally:
            print(*sys.modules, file=sys.stderr)
    """
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0
    assert "drain" in result.stdout
    imported = set(result.stderr.split())
    assert "click" in imported
    big = {
        "trio",
        "httpx",
        "httpcore",
        "quart",
        "quart_trio",
        "hypercorn",
        "prometheus_client",
        "jinja2",
        "rich",
    }
    assert not big & imported


def test_the_version_is_in_the_changelog() -> None:
    """The changelog's newest entry is the version of the package."""
    version = tomllib.loads(text_of("pyproject.toml"))["project"]["version"]
    newest = re.search(r"(?m)^## \[(.+?)\]", text_of("CHANGELOG.md"))
    assert newest is not None
    assert newest[1] == version
