"""What is held already and only needs a consumer."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from trio.testing import MockClock

from tests.journals import make_entry
from trio_worker.backlog import Backlog
from trio_worker.gate import Gate
from trio_worker.held import SUSPECT_DEATHS, Held
from trio_worker.journal import Journal, open_journal
from trio_worker.phrases import ENGLISH
from trio_worker.runners import inline


@pytest.fixture
async def journal(autojump_clock: MockClock) -> AsyncIterator[Journal]:
    async with open_journal(None, runner=inline) as journal:
        yield journal


class Scene:
    """A backlog, and how often it has woken somebody."""

    def __init__(self, journal: Journal, room: Gate | None = None) -> None:
        self.backlog = Backlog(room)
        self.woken = 0
        self.backlog.wake = self._wake
        self.held: dict[int, Held] = {}
        self._journal = journal

    def _wake(self) -> None:
        self.woken += 1

    def offer(self, number: int, *, deaths: int = 0) -> None:
        entry = make_entry(number, deaths=deaths, attempts=deaths)
        self._journal.keep(entry)
        self.held[number] = Held(self._journal, entry, ENGLISH, resumed=True)
        self.backlog.offer(self.held[number])

    def offer_suspect(self, number: int) -> None:
        self.offer(number, deaths=SUSPECT_DEATHS)

    def take(self) -> int | None:
        held = self.backlog.take()
        return held.query.id if held is not None else None

    def take_all(self) -> list[int]:
        """What as many consumers as want to get at this moment."""
        numbers = []
        while (number := self.take()) is not None:
            numbers.append(number)
        return numbers


@pytest.fixture
def scene(journal: Journal) -> Scene:
    return Scene(journal)


async def test_an_empty_one_gives_nothing(scene: Scene) -> None:
    """And lets new queries be claimed."""
    assert scene.take() is None
    assert scene.backlog.gate.is_open
    assert scene.backlog.waiting == 0


async def test_what_is_offered_first_is_taken_first(scene: Scene) -> None:
    """By as many as there are, at once; new queries may be claimed beside it."""
    for number in (3, 1, 2):
        scene.offer(number, deaths=SUSPECT_DEATHS - 1)
    assert scene.backlog.waiting == 3
    assert scene.take_all() == [3, 1, 2]
    assert scene.backlog.gate.is_open
    assert scene.backlog.waiting == 0


async def test_nothing_is_given_while_there_is_no_room(journal: Journal) -> None:
    """Neither an ordinary one nor a suspect; then somebody is woken."""
    room = Gate()
    scene = Scene(journal, room)
    room.close()
    scene.offer(1)
    assert (scene.take(), scene.woken, scene.backlog.waiting) == (None, 0, 1)
    room.open()
    scene.backlog.look_again()
    assert (scene.woken, scene.take()) == (1, 1)
    scene.backlog.end()
    scene.offer_suspect(2)
    room.close()
    assert scene.take() is None
    room.open()
    assert scene.take() == 2


async def test_somebody_is_woken_for_each(scene: Scene) -> None:
    """By the offer, and by whoever takes one while there are more: one who was woken is one who works."""
    scene.offer(1)
    assert scene.woken == 1
    scene.offer(2)
    scene.offer(3)
    woken = scene.woken
    scene.take()
    assert scene.woken > woken
    woken = scene.woken
    scene.take_all()
    assert scene.woken == woken + 1  # for the last one; nothing is left after it


async def test_a_suspect_is_alone(scene: Scene) -> None:
    """Nobody gets anything while it is at work, and nothing new is claimed."""
    scene.offer_suspect(1)
    assert not scene.backlog.gate.is_open
    assert scene.take() == 1
    scene.offer(2)
    scene.backlog.begin()  # a claim that was under way already, and finds nothing
    scene.backlog.end()
    assert scene.take_all() == []
    assert not scene.backlog.gate.is_open
    scene.offer_suspect(3)
    assert scene.take_all() == []
    woken = scene.woken
    scene.backlog.end()
    assert scene.woken > woken
    assert scene.take_all() == [2]


async def test_a_suspect_waits_until_nobody_is_at_work(scene: Scene) -> None:
    """Neither a handler nor a claim that is under way: its query would be beside it."""
    scene.backlog.begin()
    scene.backlog.begin()
    scene.offer_suspect(1)
    assert scene.take() is None
    assert not scene.backlog.gate.is_open
    scene.backlog.end()
    assert scene.take() is None
    assert scene.woken == 0
    scene.backlog.end()
    assert scene.woken == 1
    assert scene.take() == 1


async def test_suspects_go_one_after_the_other(scene: Scene) -> None:
    """In order; after the last one new queries are claimed again."""
    for number in (1, 2, 3):
        scene.offer_suspect(number)
    for number in (1, 2, 3):
        assert scene.take_all() == [number]
        assert not scene.backlog.gate.is_open
        scene.backlog.end()
    assert scene.backlog.gate.is_open


async def test_the_innocent_go_first(scene: Scene) -> None:
    """Together, before anything can be hit by a suspect."""
    scene.offer_suspect(1)
    scene.offer(2)
    scene.offer(3)
    assert scene.take_all() == [2, 3]
    scene.backlog.end()
    assert scene.take() is None
    scene.backlog.end()
    assert scene.take() == 1


async def test_what_is_taken_counts_until_its_end(scene: Scene) -> None:
    """And not longer: after any number of queries nobody is at work when nobody is."""
    for number in range(5):
        scene.offer(number)
        assert scene.take() == number
        scene.backlog.end()
    scene.offer_suspect(5)
    assert scene.take() == 5
    scene.backlog.end()
    assert scene.backlog.gate.is_open


async def test_what_somebody_took_meanwhile_is_not_given_out(scene: Scene) -> None:
    """A query that was let go while it waited; a suspect among them no longer keeps new claims back."""
    scene.offer(1)
    scene.offer(2)
    scene.offer_suspect(3)
    scene.held[1].forget()
    scene.held[3].died("reset")
    assert scene.take_all() == [2]
    assert scene.backlog.gate.is_open


async def test_all_of_it_can_be_taken_at_once(scene: Scene) -> None:
    """At the stop, for putting it back."""
    scene.offer(1)
    scene.offer_suspect(2)
    assert [held.query.id for held in scene.backlog.clear()] == [1, 2]
    assert scene.backlog.waiting == 0
    assert scene.backlog.gate.is_open
