"""A real browser for tests: Chromium, over its own protocol (CDP), on a pair of pipes.

Some dozen lines, and not Playwright, whose 46 MB bring a Node.js of their own, and a thread beside Trio's.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

__all__ = ["Chromium", "Page", "running_chromium"]

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-dev-shm-usage"),
    *("--no-first-run", "--no-default-browser-check", "--disable-extensions", "--mute-audio"),
    # It would call its maker at every start.
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *(
        "--disable-default-apps",
        "--metrics-recording-only",
        "--force-color-profile=srgb",
        "--hide-scrollbars",
    ),
)
# It speaks on descriptors 3 and 4, which may be others' in this process.
START = """
import fcntl, os, sys
pipes = [fcntl.fcntl(int(number), fcntl.F_DUPFD, 10) for number in sys.argv[1:3]]
os.dup2(pipes[0], 3)
os.dup2(pipes[1], 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
ANSWER_SECONDS = 60.0  # of a busy machine's


def find_chromium() -> str:
    """Its path. Where ``CHROMIUM`` is set, as by CI, it has to be there; else its tests may be skipped."""
    if "CHROMIUM" in os.environ:
        return os.environ["CHROMIUM"]
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("there is no Chromium here")
    return found


@attrs.define
class Chromium:
    """One browser, for the tests of a file one after the other: each opens pages of its own."""

    requests: int
    answers: int
    log: Path
    last_id: int = 0

    @asynccontextmanager
    async def page(self, url: str, *, width: int = 1000, dark: bool = False) -> AsyncIterator[Page]:
        """Open a page in a browser context of its own."""
        async with (
            trio.lowlevel.FdStream(os.dup(self.requests)) as requests,
            trio.lowlevel.FdStream(os.dup(self.answers)) as answers,
        ):
            page = Page(self, requests, answers)
            context = (await page.call("Target.createBrowserContext"))["browserContextId"]
            try:
                await page.attach(context)
                await page.shape(width, dark=dark)
                await page.call("Page.navigate", url=url)
                await page.until("document.readyState === 'complete'")
                yield page
            finally:
                with trio.move_on_after(10, shield=True):
                    page.session = None
                    await page.call("Target.disposeBrowserContext", browserContextId=context)


@attrs.define
class Page:
    """A page, and what it has complained of.

    Attributes:
        complaints: What the browser has noted: exceptions, what the Content-Security-Policy forbids, ….
    """

    browser: Chromium
    requests: trio.lowlevel.FdStream
    answers: trio.lowlevel.FdStream
    session: str | None = None
    complaints: list[str] = attrs.field(factory=list)
    _read: bytearray = attrs.field(factory=bytearray)

    async def attach(self, context: str) -> None:
        target = await self.call("Target.createTarget", url="about:blank", browserContextId=context)
        attached = await self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self.session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            await self.call(f"{domain}.enable")

    async def shape(self, width: int, height: int = 800, *, dark: bool = False) -> None:
        """Make it as wide and high as this, and light or dark."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        await self.call("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.call("Emulation.setEmulatedMedia", features=[scheme])

    async def evaluate(self, expression: str) -> Any:
        """What a JavaScript expression comes to, or the promise that it is."""
        result = await self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    async def until(self, expression: str) -> Any:
        """Wait until an expression is true."""
        return await self.evaluate(
            "new Promise(done => { const look = () => {"
            f" const value = ({expression}); value ? done(value) : setTimeout(look, 20); }}; look(); }})"
        )

    async def text(self, selector: str) -> str:
        """The text of an element, as it is seen."""
        return str(await self.evaluate(f"document.querySelector({json.dumps(selector)}).innerText"))

    async def screenshot(self, path: Path) -> None:
        """Keep what the whole page looks like."""
        shot = await self.call("Page.captureScreenshot", captureBeyondViewport=True)
        await trio.Path(path).write_bytes(base64.b64decode(shot["data"]))

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Call a method of CDP."""
        self.browser.last_id += 1
        number = self.browser.last_id
        message: dict[str, Any] = {"id": number, "method": method, "params": params}
        if self.session is not None:
            message["sessionId"] = self.session
        with trio.fail_after(ANSWER_SECONDS):
            await self.requests.send_all(json.dumps(message).encode() + b"\0")
            while True:
                answer = await self._next()
                if answer.get("id") == number:
                    assert "error" not in answer, (method, answer["error"])
                    return dict(answer["result"])
                self._note(answer)

    async def _next(self) -> dict[str, Any]:
        while b"\0" not in self._read:
            received = await self.answers.receive_some(65_536)
            assert received, f"Chromium has ended: {self.browser.log.read_text()[-2000:]}"
            self._read += received
        message, _, rest = self._read.partition(b"\0")
        self._read = rest
        return dict(json.loads(message))

    def _note(self, event: dict[str, Any]) -> None:
        if event.get("method") == "Runtime.exceptionThrown":
            self.complaints.append(str(event["params"]["exceptionDetails"]))
        elif event.get("method") == "Log.entryAdded":
            self.complaints.append(event["params"]["entry"]["text"])


@contextmanager
def running_chromium(directory: Path) -> Iterator[Chromium]:
    """Start a browser, and end it.

    Args:
        directory: Where it keeps its things.
    """
    path = find_chromium()
    flags = (*FLAGS, f"--user-data-dir={directory}", "--remote-debugging-pipe", "about:blank")
    from_us, requests = os.pipe()
    answers, to_us = os.pipe()
    try:
        with (directory / "stderr.log").open("w") as errors:
            process = subprocess.Popen(
                [sys.executable, "-ISc", START, str(from_us), str(to_us), path, *flags],
                pass_fds=(from_us, to_us),
                stdout=subprocess.DEVNULL,
                stderr=errors,
            )
        os.close(from_us)
        os.close(to_us)
        try:
            yield Chromium(requests, answers, directory / "stderr.log")
        finally:
            os.close(requests)  # it ends with its pipe
            os.close(answers)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
