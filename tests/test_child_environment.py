"""What the processes of a handler see of the environment."""

from __future__ import annotations

from trio_worker.handlers.child_environment import child_environment


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


def test_what_is_given_stays_as_it_is() -> None:
    """A copy: to change it changes nothing."""
    environ = {"WORKER_PASSWORD": "s", "HOME": "/root"}
    child_environment(environ)["HOME"] = "/"
    assert environ == {"WORKER_PASSWORD": "s", "HOME": "/root"}
