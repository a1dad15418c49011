"""``trio-worker status``: how the worker is that runs here, what is wrong, and what to do."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from collections.abc import Iterator, Mapping

import click
import trio
from rich.console import Console
from rich.live import Live
from rich.text import Text

from trio_worker.cli.check_report import Mark, sign
from trio_worker.cli.ending import Interruption, complain, run_command
from trio_worker.cli.running_worker import Answers, ask_probes
from trio_worker.cli.settings_here import read_here
from trio_worker.errors import SettingsError
from trio_worker.probes import DRAINING, NOT_LOGGED_IN, STOPPING
from trio_worker.settings import read_fields
from trio_worker.web.readiness import STARTING

__all__ = ["screen", "show_status"]

WELL, NOT_WELL, WRONG_SETTINGS = 0, 1, 2

REFRESH = 2.0  # seconds
NARROWEST, WIDEST, UNATTENDED = 40, 100, 80  # cells of a line
_SIGN, _WHAT, _PART = 3, 8, 18  # cells of the first columns

_UNHEARD = (
    (
        "does not answer",
        "If that is the worker, something blocks its event loop: its log names the handler and the line.",
    ),
    ("another WORKER_ADMIN_TOKEN", "Set the one that the worker was started with."),
    ("nothing listens", "Is the worker running, and with this WORKER_BIND? trio-worker run starts it."),
    ("is no trio-worker", "WORKER_BIND has to be the worker's own: under hypercorn, what -b says."),
)

_LATE = "Restart the worker: what hangs there does not end by itself. Its log is worth a bug report."

# By the reason itself, where the name alone does not say what to do.
_ADVICE_OF_ONE = {
    STARTING: "Nothing to do: it is just starting.",
    DRAINING: "Nothing to do: it ends when its queries have.",
    STOPPING: "Nothing to do: it is about to end.",
}

_ADVICE = {
    "pause": "trio-worker resume has it take queries again.",
    "login": "See whether WORKER_USERNAME and WORKER_PASSWORD are right: trio-worker check. It tries again.",
    "webbuddy": "See whether WebBuddy runs, and WEBBUDDY_URL leads there: trio-worker check. It tries again.",
    "journal": "See to the disk of WORKER_STATE_DIR. The worker goes on by itself once it can write.",
    "handler": "Its log says more. What could not be stopped ends with a restart of the worker.",
    "recovery": "trio-worker outbox lists what it holds. It goes on by itself.",
    "results": "trio-worker outbox lists them. They go out by themselves once WebBuddy takes them.",
}


def show_status(*, watch: bool, as_json: bool) -> int:
    """Ask the worker how it is, once or, with ``watch``, until Ctrl-C.

    Returns:
        The exit code: 0 alive and ready, 1 not, 2 wrong settings, 130 Ctrl-C.
    """
    try:
        here = read_here(lambda environ: read_fields(environ, "bind", "admin_token", "admin_token_file"))
    except SettingsError as error:
        for problem in error.problems:
            complain(problem)
        return WRONG_SETTINGS

    async def show(interruption: Interruption) -> int:
        code = WELL
        with interruption.scope:
            code = await (_watch if watch else _show)(here["bind"], here["admin_token"], as_json=as_json)
        return code if interruption.signal is None else interruption.exit_code

    return run_command(show)


async def _show(bind: str, token: str | None, *, as_json: bool) -> int:
    answers = await ask_probes(bind, token)
    click.echo(_json(bind, answers) if as_json else "\n".join(screen(bind, answers, _width())))
    return WELL if answers.is_well else NOT_WELL


async def _watch(bind: str, token: str | None, *, as_json: bool) -> int:
    if as_json or not sys.stdout.isatty():
        while True:
            await _show(bind, token, as_json=as_json)
            await trio.sleep(REFRESH)
    with Live(console=Console(), auto_refresh=False) as live:
        while True:
            answers = await ask_probes(bind, token)
            live.update(Text.from_ansi("\n".join(screen(bind, answers, _width()))), refresh=True)
            await trio.sleep(REFRESH)


def _width() -> int:
    return min(max(shutil.get_terminal_size((UNATTENDED, 24)).columns, NARROWEST), WIDEST)


# --- For programs -----------------------------------------------------------------------------------


def _json(bind: str, answers: Answers) -> str:
    is_known = answers.problem is None
    return json.dumps(
        {
            "worker": bind,
            "problem": answers.problem,
            "live": not answers.late if is_known else None,
            "late": dict(answers.late),
            "ready": not answers.reasons if is_known else None,
            "reasons": dict(answers.reasons),
            "notes": dict(answers.notes),
        },
        ensure_ascii=False,
    )


# --- For people -------------------------------------------------------------------------------------


def screen(bind: str, answers: Answers, width: int) -> list[str]:
    """Draw it.

    Args:
        bind: Where the worker listens.
        answers: What it has said.
        width: How many cells a line may have.
    """
    advices = (line for advice in _advices(answers) for line in _wrapped(advice, width))
    return [*_table(bind, answers, width), "", *advices]


def _table(bind: str, answers: Answers, width: int) -> Iterator[str]:
    yield f"{'':<{_SIGN}}{'probe':<{_WHAT}}{'part':<{_PART}}{bind}"
    if answers.problem is not None:
        yield from _row("problem", "alive", "", answers.problem, width)
        return
    yield from _rows("alive", answers.late, "each loop goes on in time", width)
    yield from _rows("ready", answers.reasons, "it takes queries", width)
    for name, note in answers.notes.items():
        yield from _row("note", "", name, note, width)


def _rows(what: str, wrong: Mapping[str, str], well: str, width: int) -> Iterator[str]:
    if not wrong:
        yield from _row("fine", what, "", well, width)
    for name, reason in wrong.items():
        yield from _row("problem", what, name, reason, width)


def _row(mark: Mark, what: str, part: str, sentence: str, width: int) -> Iterator[str]:
    indent = _SIGN + _WHAT + _PART
    first, *rest = textwrap.wrap(sentence, max(width - indent, 20), break_on_hyphens=False)
    gap = " " * (_SIGN - len(click.unstyle(sign(mark))))
    yield f"{sign(mark)}{gap}{what:<{_WHAT}}{part:<{_PART}}{first}"
    yield from (" " * indent + line for line in rest)


def _advices(answers: Answers) -> list[str]:
    """Say what to do, each thing once."""
    if answers.problem is not None:
        return [next(advice for words, advice in _UNHEARD if words in answers.problem)]
    if answers.late:
        return [_LATE]
    if answers.reasons:
        return [*dict.fromkeys(_advice(*reason) for reason in answers.reasons.items())]
    if answers.notes:
        return ["It takes queries, but not all is well."]
    return ["All is well."]


def _advice(name: str, reason: str) -> str:
    if reason.startswith(NOT_LOGGED_IN):
        name = "webbuddy"  # nobody has looked at the password yet
    return _ADVICE_OF_ONE.get(reason) or _ADVICE.get(name, "")


def _wrapped(sentence: str, width: int) -> list[str]:
    return textwrap.wrap(sentence, width, break_long_words=False, break_on_hyphens=False)
