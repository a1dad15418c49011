"""The folder in which workers keep what they hold, and who of them is alive."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from tests.journals import ADDRESS, held_in, leave_behind, make_entry, state_folder
from tests.neighbour import start_neighbour
from trio_worker.errors import JournalError
from trio_worker.state_folder import SET_ASIDE, Address, LockedFile, StateFolder, kept_from_takers


def make_journal(folder: StateFolder) -> LockedFile:
    """One that is ours."""
    file = folder.new()
    file.path.write_bytes(b"a journal")
    return file


def take(folder: StateFolder) -> list[Path]:
    """Take what is free, and give it back."""
    files = list(folder.take_free())
    for file in files:
        file.release()
    return [file.path for file in files]


def names(folder: StateFolder) -> list[str]:
    return sorted(path.name for path in folder.path.iterdir())


# --- Its name ---------------------------------------------------------------------------------------


def test_its_name_can_be_recognized() -> None:
    """By an operator who looks into WORKER_STATE_DIR."""
    name = Address("https://web.example.org/buddy", "müller@home").folder_name
    assert name.startswith("web.example.org-buddy-m-ller-home-")


def test_no_two_addresses_share_a_folder() -> None:
    """Also where what can be read of them is the same, or nothing is left of it."""
    addresses = [
        Address("http://a", "b"),
        Address("https://a", "b"),
        Address("http://a-b", ""),
        Address("http://a", "B"),
        Address("http://a\nb", ""),
        Address("http://a/" + "x" * 200, "b"),
        Address("http://a/" + "x" * 201, "b"),
        Address("http://", "\udcff"),
        Address("http://", "../.."),
    ]
    found = {address.folder_name for address in addresses}
    assert len(found) == len(addresses)
    for name in found:
        assert "/" not in name
        assert not name.startswith(".")
        assert len(name) < 100


# --- The folder -------------------------------------------------------------------------------------


def test_only_its_owner_may_read_it(tmp_path: Path) -> None:
    """Queries and answers lie in it; also when somebody else has made it, readable for all."""
    folder = state_folder(tmp_path / "new" / "root")
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
    folder.path.chmod(0o777)
    folder.make()
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700


def test_the_root_is_left_as_it_is(tmp_path: Path) -> None:
    """A mounted volume belongs to whoever has mounted it."""
    tmp_path.chmod(0o755)
    state_folder(tmp_path)
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    """With the variable, what stands there, what is wrong and what is expected."""
    (tmp_path / "file").touch()
    folder = StateFolder(tmp_path / "file" / "state", ADDRESS)
    with pytest.raises(JournalError) as caught:
        folder.make()
    assert str(caught.value).startswith(
        f"WORKER_STATE_DIR is '{tmp_path}/file/state': {tmp_path}/file is a file:"
    )
    assert "expected a folder on a local disk" in str(caught.value)


def test_a_file_in_its_place_is_named(tmp_path: Path) -> None:
    """Not "File exists", which a folder does as well."""
    (tmp_path / "file").touch()
    with pytest.raises(JournalError, match=r"/file': it is a file: expected a folder"):
        StateFolder(tmp_path / "file", ADDRESS).make()


def test_a_folder_that_has_gone_is_an_error(tmp_path: Path) -> None:
    """Somebody has deleted it under a running worker."""
    folder = StateFolder(tmp_path, ADDRESS)
    with pytest.raises(JournalError, match="No such file or directory"):
        folder.new()


# --- Locks, in one process --------------------------------------------------------------------------


def test_a_new_journal_is_locked(tmp_path: Path) -> None:
    """From before it exists: nobody takes it over, or cleans its lock away."""
    folder = state_folder(tmp_path)
    file = folder.new()
    assert list(folder.take_free()) == []
    file.path.write_bytes(b"a journal")
    assert list(folder.take_free()) == []
    assert len(names(folder)) == 2
    file.remove()


def test_two_of_the_same_moment_have_two_names(tmp_path: Path) -> None:
    """Two processes that start together."""
    folder = state_folder(tmp_path)
    files = [folder.new() for _ in range(50)]
    assert len({file.path for file in files}) == 50
    for file in files:
        file.remove()


def test_a_released_journal_is_free(tmp_path: Path) -> None:
    """And locked for whoever takes it."""
    folder = state_folder(tmp_path)
    file = make_journal(folder)
    file.release()
    file.release()
    (taken,) = folder.take_free()
    assert taken.path == file.path
    assert list(folder.take_free()) == []
    taken.release()


def test_the_oldest_is_taken_first(tmp_path: Path) -> None:
    """By the time at which its process began."""
    folder = state_folder(tmp_path)
    paths = [leave_behind(folder, make_entry(number)) for number in range(3)]
    os.utime(paths[0], (2e9, 2e9))
    renamed = paths[2].with_name("0" * 16 + "-0000.journal")
    paths[2].rename(renamed)
    assert take(folder) == [renamed, *sorted(paths[:2])]


def test_a_removed_journal_leaves_nothing(tmp_path: Path) -> None:
    """Neither SQLite's own files nor the lock."""
    folder = state_folder(tmp_path)
    file = make_journal(folder)
    for end in ("-wal", "-shm", "-journal"):
        file.path.with_name(file.path.name + end).touch()
    file.remove()
    assert names(folder) == []
    file.remove()


def test_what_lies_there_without_a_journal_is_cleaned_up(tmp_path: Path) -> None:
    """Of a process that died before it had one, and of one that looked while it was removed."""
    folder = state_folder(tmp_path)
    folder.new().release()
    (folder.path / "0000-00.journal-shm").touch()
    (folder.path / "0000-00.journal-wal").touch()
    assert list(folder.take_free()) == []
    assert names(folder) == []


def test_cleaning_up_spares_the_living(tmp_path: Path) -> None:
    """A process that has its lock, and not yet its journal."""
    folder = state_folder(tmp_path)
    file = folder.new()
    wal = file.path.with_name(file.path.name + "-wal")
    wal.touch()
    assert list(folder.take_free()) == []
    assert names(folder) == sorted([wal.name, file.path.with_suffix(".lock").name])
    file.remove()


def test_what_others_put_there_is_left_alone(tmp_path: Path) -> None:
    """Only what has our names is ours."""
    folder = state_folder(tmp_path)
    (folder.path / "notes.txt").write_text("do not touch")
    (folder.path / "lost+found").mkdir()
    assert list(folder.take_free()) == []
    assert names(folder) == ["lost+found", "notes.txt"]


def test_set_aside_means_renamed(tmp_path: Path) -> None:
    """With all of SQLite's files, unchanged; nobody takes it again, and its lock is gone."""
    folder = state_folder(tmp_path)
    file = make_journal(folder)
    file.path.with_name(file.path.name + "-wal").write_bytes(b"its log")
    new = file.set_aside()
    assert SET_ASIDE in new.name
    assert new.read_bytes() == b"a journal"
    assert new.with_name(new.name + "-wal").read_bytes() == b"its log"
    assert len(names(folder)) == 2
    assert list(folder.take_free()) == []
    assert len(names(folder)) == 2


def test_a_journal_without_a_lock_is_taken(tmp_path: Path) -> None:
    """Copied here by hand, out of a backup."""
    folder = state_folder(tmp_path)
    path = leave_behind(folder, make_entry(7))
    path.with_suffix(".lock").unlink()
    assert take(folder) == [path]


def test_a_reader_keeps_takers_away(tmp_path: Path) -> None:
    """As long as it reads; two readers do not mind each other."""
    folder = state_folder(tmp_path)
    path = leave_behind(folder, make_entry(7))
    with kept_from_takers(path) as free, kept_from_takers(path) as also_free:
        assert free
        assert also_free
        assert list(folder.take_free()) == []
    (taken,) = folder.take_free()
    with kept_from_takers(path) as free:
        assert not free
    taken.release()


def test_at_no_moment_have_two_the_lock(tmp_path: Path) -> None:
    """Whoever has removed a journal, and its lock, while another was about to lock it."""
    folder = state_folder(tmp_path)
    path = folder.path / "0000-00.journal"
    holders: set[int] = set()
    most: set[int] = set()

    def take_again_and_again() -> None:
        for _ in range(500):
            path.touch()
            for file in folder.take_free():
                holders.add(threading.get_ident())
                for _ in range(20):
                    file.path.exists()  # lets the others run
                    most.add(len(holders))
                holders.remove(threading.get_ident())
                file.remove()

    threads = [threading.Thread(target=take_again_and_again) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == {1}


# --- Locks, between processes -----------------------------------------------------------------------


async def test_what_a_living_process_has_is_not_taken(tmp_path: Path) -> None:
    """However long its journal has not changed."""
    folder = state_folder(tmp_path)
    async with start_neighbour(tmp_path) as neighbour:
        await neighbour.ask("open")
        await neighbour.ask("hold 7")
        assert list(folder.take_free()) == []
        (path,) = folder.journals()
        assert held_in(path) == [7]


async def test_what_a_killed_process_had_is_free_at_once(tmp_path: Path) -> None:
    """No time has to pass: the kernel gives the lock back."""
    folder = state_folder(tmp_path)
    async with start_neighbour(tmp_path) as neighbour:
        await neighbour.ask("open")
        await neighbour.ask("hold 7")
        await neighbour.kill()
        (taken,) = folder.take_free()
        assert held_in(taken.path) == [7]
        taken.release()


@pytest.mark.parametrize("kind", ["fork", "multiprocessing", "exec"])
async def test_no_child_keeps_the_lock(kind: str, tmp_path: Path) -> None:
    """A handler's child that outlives its worker: the queries are free all the same."""
    folder = state_folder(tmp_path)
    async with start_neighbour(tmp_path) as neighbour:
        await neighbour.ask("open")
        await neighbour.ask("hold 7")
        child = int(await neighbour.ask(f"child {kind}"))
        assert list(folder.take_free()) == []  # the child has closed its copy, and that unlocks nothing
        await neighbour.kill()
        os.kill(child, 0)  # it lives
        (taken,) = folder.take_free()
        assert held_in(taken.path) == [7]
        taken.release()


async def test_the_end_of_a_child_harms_nobody(tmp_path: Path) -> None:
    """It leaves with all that it has inherited, the open journal too."""
    folder = state_folder(tmp_path)
    async with start_neighbour(tmp_path) as neighbour:
        await neighbour.ask("open")
        await neighbour.ask("hold 7")
        await neighbour.ask("child short")
        assert list(folder.take_free()) == []
        await neighbour.ask("hold 8")
        (path,) = folder.journals()
        assert held_in(path) == [7, 8]
        await neighbour.kill()
        assert held_in(path) == [7, 8]
