"""README.md, docs/ and benchmarks/README.md: what they link to, call or name is there."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import pytest

from trio_worker.cli import main

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
REFERENCE = (ROOT / "benchmarks" / "README.md", *sorted((ROOT / "docs").glob("*.md")))
DOCUMENTS = (README, *REFERENCE, ROOT / "CHANGELOG.md")

each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))


def prose(document: Path) -> str:
    """All but the code blocks, where a # is no headline."""
    return re.sub(r"(?ms)^```.*?^```$", "", document.read_text(encoding="utf-8"))


def anchors(document: Path) -> set[str]:
    """The names by which GitHub knows the headlines."""
    found: list[str] = []
    for headline in re.findall(r"(?m)^#+ (.+)$", prose(document)):
        name = re.sub(r"[^\w\- ]", "", headline.lower()).replace(" ", "-")
        found.append(f"{name}-{found.count(name)}" if name in found else name)
    return set(found)


def code(document: Path) -> list[str]:
    """What is code in the text, and each line of the blocks for a shell."""
    text = document.read_text(encoding="utf-8")
    lines = "\n".join(re.findall(r"(?ms)^```sh\n(.*?)^```$", text)).splitlines()
    return [*lines, *re.findall(r"`([^`\n]+)`", prose(document))]


def shown_in(line: str) -> list[tuple[str, str]]:
    """The commands of ours in a line of a shell, each with its arguments."""
    found: list[tuple[str, str]] = re.findall(r"trio-worker ([a-z]+)([^|;&#]*)", line)
    return found


@each_document
def test_each_link_leads_somewhere(document: Path) -> None:
    """To a file or folder that is there and, if it names a headline, to one of that file's."""
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(document)):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_the_readme_leads_to_each_of_the_others() -> None:
    """So that none of them can only be found by who knows of it."""
    links = re.findall(r"\]\(([^)\s#]+)", prose(README))
    assert {*REFERENCE} <= {(ROOT / link).resolve() for link in links}


@each_document
def test_each_command_of_ours_exists(document: Path) -> None:
    """With the options that are shown."""
    for line in code(document):
        for command, arguments in shown_in(line):
            assert command in main.commands, line
            known = {option for parameter in main.commands[command].params for option in parameter.opts}
            assert {*re.findall(r"(?<!\S)--[a-z-]+", arguments)} <= known, line


def test_the_commands_are_found() -> None:
    """Those of the first steps, and those of the operator's page."""
    first, operators = (
        [command for line in code(document) for command, _ in shown_in(line)]
        for document in (README, ROOT / "docs" / "operating.md")
    )
    assert {"demo", "check", "run", "submit"} <= {*first}
    assert len(operators) > 20


def test_the_readme_shows_rows_of_the_tables() -> None:
    """Its settings and costs are those of the whole tables, to the letter."""
    for section, document in (
        ("Settings", ROOT / "docs" / "settings.md"),
        ("What it costs", ROOT / "benchmarks" / "README.md"),
    ):
        part = README.read_text(encoding="utf-8").partition(f"\n## {section}\n")[2].partition("\n## ")[0]
        rows = re.findall(r"(?m)^\|.*$", part)
        assert len(rows) > 5
        assert {*rows} <= {*document.read_text(encoding="utf-8").splitlines()}


@each_document
def test_each_program_and_test_of_the_checkout_exists(document: Path) -> None:
    """`python -m …`, and `pytest tests/…`."""
    for line in code(document):
        for module in re.findall(r"python3? -m ([\w.]+)", line):
            assert find_spec(module) is not None, line
        for test in re.findall(r"pytest (?:-q )?(tests/\S+)", line):
            assert (ROOT / test).exists(), line


def test_what_points_into_a_document_finds_it() -> None:
    """A comment in the code and in `deploy/` that names a document, or a part of it in quotes."""
    files = [
        path
        for folder in ("trio_worker", "deploy", "examples", ".ci")
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    ]
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in files]
    comments = " ".join(re.sub(r"\s*\n\s*(?:#|//)?\s*", " ", text) for text in texts)
    named = re.findall(r"\b(?:README|docs/\w+|benchmarks/README)\.md\b", comments)
    assert named
    for document in named:
        assert (ROOT / document).exists(), document
    parts = re.findall(r"\"([A-Z][^\"]{3,40})\"(?: of| in|,) ((?:docs/\w+|README)\.md)", comments)
    assert parts
    for part, document in parts:
        text = (ROOT / document).read_text(encoding="utf-8")
        assert re.search(rf"(?m)^(?:#+ |\*\*){re.escape(part)}", text), (part, document)
