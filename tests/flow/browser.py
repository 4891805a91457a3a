"""Chromium without a window: what a page shows, and what clicks and keys do."""

import asyncio
import base64
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
KEYS = {"Enter": (13, "\r"), "Escape": (27, ""), "Tab": (9, ""), "a": (65, ""), "v": (86, "")}
"""Virtual key code and text."""


class Page:
    """One page; `run` evaluates JavaScript in it and returns JSON values."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse, loop: Any) -> None:
        self._socket, self._loop = socket, loop
        self._number = 0
        self.requests: list[str] = []
        self.errors: list[str] = []

    def open(self, url: str) -> None:
        for domain in ("Page", "Network", "Log", "Runtime"):
            self._call(f"{domain}.enable")
        self._call("Page.navigate", url=url)
        # The blank page before it is complete as well.
        there = f"location.href === {json.dumps(url)} && document.readyState === 'complete'"
        while not self.run(there):
            pass

    def run(self, script: str) -> Any:
        answer = self._call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, claim: str, within_s: float = 60) -> None:
        """Until a JavaScript expression is true."""
        until = time.monotonic() + within_s
        while not self.run(claim):
            assert time.monotonic() < until, (claim, self.run("document.body.innerText"))
            time.sleep(0.02)

    def focus(self, selector: str) -> None:
        self.run(f"document.querySelector({json.dumps(selector)}).focus()")

    def type(self, text: str) -> None:
        """Into what has the focus, as from a keyboard."""
        self._call("Input.insertText", text=text)

    def press(self, key: str, *commands: str, shift: bool = False) -> None:
        """One key; commands are the editor's, as "paste"."""
        code, text = KEYS[key]
        pressed = {"key": key, "windowsVirtualKeyCode": code, "modifiers": 8 if shift else 0}
        down = {"type": "keyDown", "text": text} if text else {"type": "rawKeyDown"}
        self._call("Input.dispatchKeyEvent", **pressed, **down, commands=list(commands))
        self._call("Input.dispatchKeyEvent", **pressed, type="keyUp")

    def choose_file(self, selector: str, path: Path) -> None:
        root = self._call("DOM.getDocument")["root"]["nodeId"]
        node = self._call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self._call("DOM.setFileInputFiles", nodeId=node, files=[str(path)])

    def offline(self, is_offline: bool) -> None:
        speed = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
        self._call("Network.emulateNetworkConditions", offline=is_offline, **speed)

    def show(self, width: int, height: int, scheme: str = "light") -> None:
        """In a window of that size, light or dark."""
        screen = {"width": width, "height": height, "deviceScaleFactor": 1}
        self._call("Emulation.setDeviceMetricsOverride", **screen, mobile=width < 700)
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self._call("Emulation.setEmulatedMedia", features=[feature])

    def screenshot(self, path: Path) -> None:
        """The whole page as PNG."""
        shot = self._call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    def _call(self, method: str, **params: Any) -> dict[str, Any]:
        return self._loop.run_until_complete(self._called(method, params))

    async def _called(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        self._number += 1
        await self._socket.send_json({"id": self._number, "method": method, "params": params})
        while True:
            message = json.loads((await self._socket.receive(timeout=60)).data)
            if message.get("id") == self._number:
                return message["result"]
            if message.get("method") == "Network.requestWillBeSent":
                self.requests.append(message["params"]["request"]["url"])
            if message.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded"):
                self.errors.append(json.dumps(message["params"]))


@contextmanager
def browser() -> Iterator[Page]:
    """A page of a fresh Chromium."""
    assert CHROMIUM, "who asks has looked"
    loop = asyncio.new_event_loop()
    # Its children may write a moment longer than it lives.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}"]
        process = subprocess.Popen(
            [CHROMIUM, *flags, "--remote-debugging-port=0", "about:blank"],
            stderr=subprocess.DEVNULL,
        )
        try:
            port = loop.run_until_complete(_port(Path(profile) / "DevToolsActivePort"))
            session, socket = loop.run_until_complete(_connected(port))
            yield Page(socket, loop)
            loop.run_until_complete(session.close())
        finally:
            process.terminate()
            process.wait()
            loop.close()


async def _port(file: Path) -> int:
    for _ in range(600):
        if file.exists() and file.read_text().strip():
            return int(file.read_text().splitlines()[0])
        await asyncio.sleep(0.05)
    raise TimeoutError("Chromium does not start")


async def _connected(port: int) -> tuple[aiohttp.ClientSession, aiohttp.ClientWebSocketResponse]:
    session = aiohttp.ClientSession()
    async with session.get(f"http://127.0.0.1:{port}/json") as answer:
        [page] = [one for one in await answer.json() if one["type"] == "page"]
    return session, await session.ws_connect(page["webSocketDebuggerUrl"], max_msg_size=0)
