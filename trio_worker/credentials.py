"""What the worker logs in with. A password that is in a file is read again at each log-in."""

from __future__ import annotations

from pathlib import Path

import attrs
import structlog
import trio

from trio_worker.masks import masks
from trio_worker.trouble import Trouble

__all__ = ["Credentials", "read_password", "why_unreadable"]

log = structlog.stdlib.get_logger(__name__)


def read_password(path: Path) -> str:
    """Read a password's file; blocks.

    Raises:
        OSError: When it can't be read.
        ValueError: When there is no password in it; never quotes what there is.
    """
    # A pipe (bash's `<(…)`) would be empty at the next log-in, and one without a writer never ends.
    if path.exists() and not path.is_file():
        raise ValueError("that file is a directory, a pipe or a device")
    try:
        # The newline is the editor's. Blanks are the password's.
        password = path.read_text(encoding="utf-8").rstrip("\r\n")
    except UnicodeDecodeError:
        raise ValueError("that file is not UTF-8") from None
    if not password.strip():
        raise ValueError("that file is empty")
    return password


def why_unreadable(error: OSError | ValueError) -> str:
    if isinstance(error, OSError):
        return f"that file can't be read ({error.strerror})"
    return str(error)


@attrs.define
class Credentials:
    """What the worker logs in with. The password is never in the ``repr``.

    Args:
        username: The account.
        password: The password so far.
        password_file: Where a newer one may stand, or None.
    """

    username: str
    _password: str = attrs.field(repr=False)
    password_file: Path | None = None
    _unreadable: Trouble = attrs.field(
        factory=lambda: Trouble(
            log,
            "password file can't be read, the last password known is used",
            over="password file can be read again",
        ),
        init=False,
        repr=False,
        eq=False,
    )

    def __attrs_post_init__(self) -> None:
        masks.know("password", self._password)

    async def read(self) -> tuple[str, str]:
        """Give the name and the password as they are now, for one log-in.

        A file that can't be read at this moment, or is empty (a secret that is just being
        replaced), is a warning in the log, and the last password known is given: WebBuddy decides.

        Cancellation leaves at most a thread behind that ends with its read, and the last password
        known as it was.

        Returns:
            The name and the password.
        """
        if self.password_file is None:
            await trio.lowlevel.checkpoint()
            return self.username, self._password
        try:
            # abandon_on_cancel: a mounted secret can hang with its file system, a log-in must not.
            self._password = await trio.to_thread.run_sync(
                read_password, self.password_file, abandon_on_cancel=True
            )
        except (OSError, ValueError) as error:
            self._unreadable.happened(file=str(self.password_file), reason=why_unreadable(error))
        else:
            self._unreadable.is_over(file=str(self.password_file))
        masks.know("password", self._password)
        return self.username, self._password
