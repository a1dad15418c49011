"""What the programs and processes that run a handler see of this process's environment."""

from __future__ import annotations

from collections.abc import Mapping

from trio_worker.masks import SHORTEST, masks
from trio_worker.settings import VARIABLES

__all__ = ["child_environment"]

# The operator's other secrets (an API key) are the handler's own business. Of ours, all goes by its prefix,
# so that a misspelt WORKER_PASSWROD does not slip through. But for two that hold no secret and that a handler
# may want: where its query is from (a URL with a password in it is refused at the start), and which language
# its author reads. Under any other name goes what our own password or token is in: MY_PASS, of which the
# operator has made WORKER_PASSWORD; a URL or a header with it. The model's key is for our own handler alone.
_OUR_PREFIXES = ("WORKER_", "WEBBUDDY_")
_OURS = {*(variable.name for variable in VARIABLES), "CHAT_API_KEY", "CHAT_API_KEY_FILE"}
_PASSED_ON = {"WEBBUDDY_URL", "WORKER_LANGUAGE"}


def child_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Leave out of an environment what is nobody's business but the worker's.

    Args:
        environ: Such as `os.environ`.

    Returns:
        All of it but our settings and what begins like them, and but each value in which our password stands,
        if that has `SHORTEST` characters or more, or a token of ours.
    """
    # As for `masks`, what is short is no secret: it may be the name of the user, or "1".
    password = environ.get("WORKER_PASSWORD", "")
    secrets = {*masks.of("password"), *masks.of("tokens"), *masks.of("own tokens"), *_long_enough(password)}

    def is_secret(value: str) -> bool:
        return any(secret in value for secret in secrets)

    return {name: value for name, value in environ.items() if not _is_ours(name) and not is_secret(value)}


def _long_enough(password: str) -> list[str]:
    return [password] if len(password) >= SHORTEST else []


def _is_ours(name: str) -> bool:
    return (name.startswith(_OUR_PREFIXES) or name in _OURS) and name not in _PASSED_ON
