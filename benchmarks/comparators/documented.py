"""The example of WebBuddy's documentation, as its text describes it.

A FastAPI app takes the pushes: each starts a background task that logs in, claims and works. Threads poll
beside it; each works queries off while there are any. Every call is a `requests.post` of its own, with a
connection of its own.
"""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import requests
import uvicorn
from fastapi import BackgroundTasks, FastAPI

from benchmarks.comparators.work import CONSUMERS, EMPTY_PAUSE, LOGS, URL, entry, outcome

TIMEOUT = 30


def log_in() -> dict[str, str]:
    """Log in, and give the headers of the calls that follow."""
    credentials = {"username": "worker", "password": "secret"}
    answer = requests.post(f"{URL}/api/login/", json=credentials, timeout=TIMEOUT)
    return {"Authorization": f"Bearer {answer.json()['access']}"}


def process_next(headers: dict[str, str]) -> bool:
    """Claim a query and work on it; False when there is none."""
    claim = requests.post(f"{URL}/api/queries/claim_next/", headers=headers, timeout=TIMEOUT)
    if claim.status_code == 404:
        return False
    query = claim.json()
    for number in range(LOGS):
        requests.post(f"{URL}/api/logs/", json=entry(query, number), headers=headers, timeout=TIMEOUT)
    url = f"{URL}/api/queries/{query['id']}/"
    requests.patch(url, json=outcome(), headers=headers, timeout=TIMEOUT)
    return True


def poll() -> None:
    """Work on queries for ever."""
    headers = log_in()
    while True:
        if not process_next(headers):
            time.sleep(EMPTY_PAUSE)


def process_pushed() -> None:
    """Work on what a push has announced."""
    process_next(log_in())


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    """Start the threads that poll."""
    for _ in range(CONSUMERS):
        threading.Thread(target=poll, daemon=True).start()
    yield


app = FastAPI(lifespan=lifespan)


@app.post("/api/process-query")
async def process_query(tasks: BackgroundTasks) -> dict[str, str]:
    """Take a push."""
    tasks.add_task(process_pushed)
    return {"status": "accepted"}


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=0)
