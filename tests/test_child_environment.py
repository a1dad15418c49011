"""What the processes of a handler see of the environment."""

from __future__ import annotations

from trio_worker.handlers.child_environment import child_environment
from trio_worker.masks import masks


def test_our_secrets_are_left_out() -> None:
    """The password, where it lies, and what may be a misspelt one; so are all our settings but two."""
    secrets = {
        "WORKER_PASSWORD": "s",
        "WORKER_PASSWORD_FILE": "/run/s",
        "WORKER_PASSWROD": "s",
        "NUM_WORKERS": "5",
    }
    others = {
        "PATH": "/bin",
        "WEBBUDDY_URL": "http://localhost:8000",
        "WORKER_LANGUAGE": "ru",
        "OPENAI_API_KEY": "the handler's own",
        "EMPTY": "",
    }
    assert child_environment(secrets | others) == others


def test_our_password_is_left_out_whatever_its_name() -> None:
    """MY_PASS, from which the operator has set WORKER_PASSWORD; so is what holds a token of ours."""
    others = {"HOME": "/root", "DSN": "db://u:hunter2-hunter2@host", "USER": "short"}
    secrets = {"MY_PASS": "hunter2-hunter2", "FROM_A_FILE": "hunter2-hunter2\n"}
    assert child_environment(others | secrets | {"WORKER_PASSWORD": "hunter2-hunter2"}) == others
    assert child_environment({"USER": "short", "WORKER_PASSWORD": "short"}) == {"USER": "short"}
    assert child_environment(others | secrets) == others | secrets
    masks.know("password", "hunter2-hunter2")  # read from `.env`, or from a file
    masks.know("tokens", "eyJhbGciOi", None)
    masks.know("API_KEY", "in WORKER_MASK")
    try:
        asked = others | {"API_KEY": "in WORKER_MASK"}
        assert child_environment(asked | secrets | {"HEADER": "Bearer eyJhbGciOi"}) == asked
    finally:
        for name in ("password", "tokens", "API_KEY"):
            masks.forget(name)


def test_what_is_given_stays_as_it_is() -> None:
    """A copy: to change it changes nothing."""
    environ = {"WORKER_PASSWORD": "s", "HOME": "/root"}
    child_environment(environ)["HOME"] = "/"
    assert environ == {"WORKER_PASSWORD": "s", "HOME": "/root"}
