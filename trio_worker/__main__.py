"""``python -m trio_worker``: the same as ``trio-worker``."""

from __future__ import annotations

from trio_worker.cli import main

if __name__ == "__main__":
    main(prog_name="trio-worker")
