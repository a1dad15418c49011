"""What the journals of a state folder hold, as anybody may see it. All of it blocks.

Others' journals are read without their locks: SQLite lets one read while another writes. Nothing is made
or repaired here; that is a worker's to do.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable
from pathlib import Path

import attrs

from trio_worker.errors import JournalError
from trio_worker.journal_file import Contents, Entry, JournalFile
from trio_worker.state_folder import JOURNAL, SET_ASIDE, StateFolder, kept_from_takers

__all__ = ["LOOKS", "Found", "Holdings", "Others", "look_beside", "look_into"]

LOOKS = 5  # at a folder in which workers take journals over while it is read


@attrs.frozen
class Found:
    """A query that is held.

    Attributes:
        entry: What its journal knows.
        journal: Its journal.
        owned: Whether that journal's process lives.
    """

    entry: Entry
    journal: Path
    owned: bool

    @property
    def is_dead_letter(self) -> bool:
        """Whether it waits for an operator's word."""
        return self.entry.dead is not None

    @property
    def is_left(self) -> bool:
        """Whether its process is dead, and the next that starts takes it up."""
        return not self.owned and not self.is_dead_letter


@attrs.define
class Holdings:
    """What is in one address's folder.

    Attributes:
        found: The queries, the oldest claim first.
        problems: A sentence for each journal that can't be read.
        set_aside: Unreadable journals that a worker has put out of its way.
        facts: Of the newest journal: ``url``, ``account`` and so on.
    """

    found: list[Found] = attrs.field(factory=list)
    problems: list[str] = attrs.field(factory=list)
    set_aside: list[Path] = attrs.field(factory=list)
    facts: dict[str, object] = attrs.field(factory=dict)

    @property
    def dead_letters(self) -> list[Found]:
        """Those that wait for an operator's word."""
        return [found for found in self.found if found.is_dead_letter]


@attrs.frozen
class Others:
    """What is held for another address.

    Attributes:
        path: Its folder.
        url: Its WebBuddy; None where no journal says so.
        account: Its account.
        held: How many queries.
        left: How many of them no living worker holds.
        unreadable: How many of its journals can't be read, or were set aside.
    """

    path: Path
    url: object
    account: object
    held: int
    left: int
    unreadable: int

    @property
    def whose(self) -> str:
        """Name the address."""
        return f"{self.account!r} at {self.url}" if self.account is not None else f"somebody ({self.path})"

    @property
    def settings(self) -> str:
        """Give the variables of a worker of that address, as a shell takes them."""
        return f"WEBBUDDY_URL={shlex.quote(str(self.url))} WORKER_USERNAME={shlex.quote(str(self.account))}"


def look_into(folder: StateFolder) -> Holdings:
    """Read all that is held in a folder; empty when there is none.

    Raises:
        JournalError: It can't be listed.
    """
    try:
        return _look_into(folder.path)
    except OSError as error:
        raise folder.unusable(error) from error


def look_beside(folder: StateFolder) -> list[Others]:
    """Count what is held for other addresses in the same WORKER_STATE_DIR.

    Raises:
        JournalError: It can't be listed.
    """
    try:
        paths = sorted(path for path in folder.root.iterdir() if _is_an_address(path) and path != folder.path)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise folder.unusable(error) from error
    others = []
    for path in paths:
        try:
            there = _look_into(path)
        except OSError:
            continue  # another user's, whose worker has that folder to itself
        unreadable = len(there.problems) + len(there.set_aside)
        if there.found or unreadable:
            url, account = there.facts.get("url"), there.facts.get("account")
            left = sum(not found.owned for found in there.found)
            others.append(Others(path, url, account, len(there.found), left, unreadable))
    return others


def _is_an_address(path: Path) -> bool:
    # WORKER_STATE_DIR may be a folder that has other things in it.
    return re.search(r"-[0-9a-f]{8}$", path.name) is not None and path.is_dir()


def _look_into(path: Path) -> Holdings:
    """Look again when a journal has gone meanwhile: what it held may be in one that had been read."""
    for _ in range(LOOKS):
        # Not Path.glob: to that, a folder that may not be read is an empty one.
        try:
            names = sorted(os.listdir(path))
        except FileNotFoundError:
            return Holdings()
        journals = [path / name for name in names if name.endswith(JOURNAL)]
        holdings = _read_all(journals)
        holdings.set_aside = [path / name for name in names if re.search(rf"{SET_ASIDE}\d+$", name)]
        if all(journal.exists() for journal in journals):
            break
    return holdings


def _read_all(journals: Iterable[Path]) -> Holdings:
    holdings = Holdings()
    found: dict[str, Found] = {}
    for journal in journals:
        try:
            owned, contents = _read(journal)
        except JournalError as error:
            if journal.exists():
                holdings.problems.append(str(error))
            continue
        holdings.facts |= contents.facts
        for entry in contents.entries:
            known = found.get(entry.id)
            # In two journals while it is taken over, or when a taker died half-way: then the first counts,
            # as for the next taker.
            if known is None or (owned and not known.owned):
                found[entry.id] = Found(entry, journal, owned)
    holdings.found = sorted(found.values(), key=lambda found: (found.entry.claimed_at, found.entry.query.id))
    return holdings


def _read(journal: Path) -> tuple[bool, Contents]:
    with kept_from_takers(journal) as free:
        pass  # only to see whether it is: a worker that starts now is not to wait for the reading
    file = JournalFile(journal, read_only=True)
    try:
        return not free, file.load()
    finally:
        file.close()
