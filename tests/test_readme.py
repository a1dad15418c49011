"""What the README shows works as it stands there."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"(?ms)^```{language}\n(.*?)^```", README)


def run_pytest(directory: Path) -> str:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    result = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=120)
    return result.stdout + result.stderr


def test_the_handler_and_its_tests(tmp_path: Path) -> None:
    """The README's handler passes the README's tests: the first as it stands, the second in Trio's mode."""
    handler, _wrapped, test, async_test = blocks("python")
    (tmp_path / "agent.py").write_text(handler, encoding="utf-8")
    (tmp_path / "test_agent.py").write_text(test, encoding="utf-8")
    output = run_pytest(tmp_path)
    assert "1 passed" in output, output
    (tmp_path / "test_agent.py").write_text(test + async_test, encoding="utf-8")
    output = run_pytest(tmp_path)
    assert "is async: write `trio_mode = true` into pytest.ini" in output
    (settings,) = re.findall(r"(?m)^printf .* > pytest\.ini$", "\n".join(blocks("sh")))
    subprocess.run(["sh", "-c", settings], cwd=tmp_path, check=True)
    output = run_pytest(tmp_path)
    assert "2 passed" in output, output


def test_the_wrapped_handler() -> None:
    """What the README shows of it is the example, which has tests."""
    _handler, wrapped, *_tests = blocks("python")
    assert wrapped.removesuffix(" ...\n") in (ROOT / "examples" / "wrapped.py").read_text(encoding="utf-8")


def test_every_command_exists() -> None:
    """Each `trio-worker …` in the README's shell blocks is a command with those options."""
    from click.testing import CliRunner

    from trio_worker.cli import main

    shown = re.findall(r"trio-worker ([a-z]+)", "\n".join(blocks("sh")))
    assert {"demo", "check", "run", "submit"} <= set(shown)
    for command in set(shown):
        assert CliRunner().invoke(main, [command, "--help"]).exit_code == 0


def test_the_help_and_the_readme_agree() -> None:
    """`run --help` has each exit code of the README, and no command's line is cut off."""
    from click.testing import CliRunner

    from trio_worker.cli import main

    text = " ".join(CliRunner().invoke(main, ["run", "--help"]).output.split())
    paragraph = README.partition("`trio-worker run` exits with ")[2].partition("\n\n")[0].partition(".")[0]
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
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    newest = re.search(r"(?m)^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))
    assert newest is not None
    assert newest[1] == version
