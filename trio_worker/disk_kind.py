"""What kind of disk a folder is on, and what that means for what is kept there."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import attrs

__all__ = ["Mount", "disk_warning", "mount_of", "read_mounts"]

_NETWORK = frozenset(
    {
        "nfs",
        "nfs4",
        "cifs",
        "smb3",
        "smbfs",
        "ceph",
        "glusterfs",
        "lustre",
        "afs",
        "9p",
        "fuse.sshfs",
        "fuse.s3fs",
    }
)
_MEMORY = frozenset({"tmpfs", "ramfs"})
_OF_THE_CONTAINER = frozenset({"overlay", "aufs"})


@attrs.frozen
class Mount:
    """A mounted file system.

    Attributes:
        point: Where it is mounted.
        kind: Its type, as the kernel names it.
    """

    point: Path
    kind: str


def read_mounts(table: str = "/proc/self/mountinfo") -> list[Mount]:
    """Read the kernel's table of mounts (proc(5)); empty where there is none, as on macOS."""
    try:
        text = Path(table).read_text(encoding="utf-8", errors="surrogateescape")  # as `os.fsdecode`
    except OSError:
        return []
    return [mount for line in text.splitlines() if (mount := _parsed(line)) is not None]


def mount_of(folder: Path, mounts: Iterable[Mount]) -> Mount | None:
    """Find the mount that a folder lies on: of several on one point, the last covers the others."""
    found = None
    for mount in mounts:
        deeper = found is None or len(mount.point.parts) >= len(found.point.parts)
        if folder.is_relative_to(mount.point) and deeper:
            found = mount
    return found


def disk_warning(folder: Path, mounts: Iterable[Mount]) -> str | None:
    """Say what is wrong with keeping a journal in this folder.

    Args:
        folder: Absolute, without symbolic links.
        mounts: As `read_mounts` gives them.

    Returns:
        A sentence for the operator, or None when nothing is known to be wrong.
    """
    mount = mount_of(folder, mounts)
    if mount is None:
        return None
    if mount.kind in _NETWORK:
        return (
            f"WORKER_STATE_DIR {folder} is on a network file system ({mount.kind}): its locks may not hold,"
            " and two workers may take the same query for theirs; use a local disk"
        )
    if mount.kind in _MEMORY:
        return (
            f"WORKER_STATE_DIR {folder} is in memory ({mount.kind}): after a restart of the machine, queries"
            " that ran stay in_progress and results that waited are lost; use a disk"
        )
    if mount.kind in _OF_THE_CONTAINER:
        return (
            f"WORKER_STATE_DIR {folder} is inside the container and goes with it: queries that ran then stay"
            " in_progress and results that waited are lost; mount a volume there"
        )
    return None


def _parsed(line: str) -> Mount | None:
    """``36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root``: the 5th, and the one after " - "."""
    before, dash, after = line.partition(" - ")
    fields = before.split()
    if not dash or len(fields) < 5 or not after.split():
        return None
    point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), fields[4])  # \040 is a blank
    return Mount(Path(point), after.split()[0])
