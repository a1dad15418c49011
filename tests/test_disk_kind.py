"""What kind of disk the journal is on."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from trio_worker.disk_kind import Mount, disk_warning, mount_of, read_mounts

# From a container: its own disk, a volume, a share, memory, a folder with a blank and one with an umlaut.
TABLE = r"""
612 500 0:52 / / rw,relatime master:1 - overlay overlay rw,lowerdir=/a:/b
613 612 0:55 / /proc rw,nosuid - proc proc rw
614 612 254:1 /var/lib/docker/volumes/state/_data /state rw,relatime - ext4 /dev/vda1 rw
615 612 0:60 / /share rw,relatime shared:7 master:2 - nfs4 server:/export rw,vers=4.2
616 614 0:61 / /state/cache rw - tmpfs tmpfs rw
617 612 0:62 / /mnt/my\040disk rw - ext4 /dev/sdb1 rw
618 612 0:63 / /mnt/größe\134x rw - cifs //host/share rw
this line is of a kernel from the future
"""


def mounts(tmp_path: Path) -> list[Mount]:
    path = tmp_path / "mountinfo"
    path.write_text(TABLE, encoding="utf-8")
    return read_mounts(str(path))


def test_the_table_is_read(tmp_path: Path) -> None:
    """With its octal blanks, in any alphabet; a line that can't be read is passed over."""
    assert mounts(tmp_path) == [
        Mount(Path("/"), "overlay"),
        Mount(Path("/proc"), "proc"),
        Mount(Path("/state"), "ext4"),
        Mount(Path("/share"), "nfs4"),
        Mount(Path("/state/cache"), "tmpfs"),
        Mount(Path("/mnt/my disk"), "ext4"),
        Mount(Path("/mnt/größe\\x"), "cifs"),
    ]


def test_without_a_table_nothing_is_known() -> None:
    """On macOS: no warning, no error."""
    assert read_mounts("/there/is/none") == []
    assert disk_warning(Path("/anywhere"), []) is None


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has the table")
def test_the_table_of_this_machine_is_read() -> None:
    """The real one has a root at least."""
    assert Path("/") in [mount.point for mount in read_mounts()]


@pytest.mark.parametrize(
    ("folder", "point"),
    [
        ("/var/lib", "/"),
        ("/state", "/state"),
        ("/state/worker/x", "/state"),
        ("/statement", "/"),
        ("/state/cache/x", "/state/cache"),
        ("/mnt/my disk/x", "/mnt/my disk"),
    ],
)
def test_a_folder_is_on_the_deepest_mount(folder: str, point: str, tmp_path: Path) -> None:
    """Not on one whose name merely begins alike."""
    mount = mount_of(Path(folder), mounts(tmp_path))
    assert mount is not None
    assert mount.point == Path(point)


def test_of_two_mounts_on_one_point_the_later_counts() -> None:
    """It covers the other."""
    one, other = Mount(Path("/state"), "ext4"), Mount(Path("/state"), "nfs")
    assert mount_of(Path("/state/x"), [one, other]) == other
    assert mount_of(Path("/state/x"), [Mount(Path("/"), "overlay"), other, Mount(Path("/"), "xfs")]) == other


@pytest.mark.parametrize(
    ("folder", "words"),
    [
        ("/share/x", "on a network file system (nfs4)"),
        ("/mnt/größe\\x", "on a network file system (cifs)"),
        ("/state/cache", "in memory (tmpfs)"),
        ("/root/.local", "mount a volume"),
    ],
)
def test_a_bad_place_is_told_with_what_it_means(folder: str, words: str, tmp_path: Path) -> None:
    """Locks that do not hold, a restart, a container that goes: each has its sentence, with the folder."""
    warning = disk_warning(Path(folder), mounts(tmp_path))
    assert warning is not None
    assert words in warning
    assert folder in warning


def test_a_local_disk_is_a_good_place(tmp_path: Path) -> None:
    """A volume too."""
    assert disk_warning(Path("/state/worker"), mounts(tmp_path)) is None
