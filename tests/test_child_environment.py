"""What the processes of a handler see of the environment."""

from __future__ import annotations

from trio_worker.handlers.child_environment import child_environment


def test_our_secrets_are_left_out() -> None:
    """The password, where it lies, and what looks like either."""
    secrets = {"WORKER_PASSWORD": "s", "WORKER_PASSWORD_FILE": "/run/s", "WORKER_PASSWORD_OLD": "s"}
    others = {"PATH": "/bin", "WORKER_USERNAME": "worker", "OPENAI_API_KEY": "the handler's own", "EMPTY": ""}
    assert child_environment(secrets | others) == others


def test_what_is_given_stays_as_it_is() -> None:
    """A copy: to change it changes nothing."""
    environ = {"WORKER_PASSWORD": "s", "HOME": "/root"}
    child_environment(environ)["HOME"] = "/"
    assert environ == {"WORKER_PASSWORD": "s", "HOME": "/root"}
