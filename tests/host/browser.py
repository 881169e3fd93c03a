"""A headless Chromium on a page, driven over its DevTools protocol; only what tests need."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import websocket

NAMES = ("chromium", "chromium-browser", "google-chrome")
# fmt: off
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--remote-debugging-port=0", "--remote-allow-origins=*",
)
# fmt: on
START_SECONDS = 60
# fmt: off
KEY_CODES = {
    "Tab": 9, "Enter": 13, "Escape": 27, "PageUp": 33, "PageDown": 34, "End": 35, "Home": 36,
    "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40,
}
# fmt: on


def find_browser() -> str | None:
    return next((found for name in NAMES if (found := shutil.which(name))), None)


class Page:
    """A tab."""

    def __init__(self, address: str) -> None:
        self._socket = websocket.create_connection(address, timeout=60)
        self._number = 0
        self.events: list[dict[str, Any]] = []
        """What the browser told by itself: of the domains that `watch` switched on."""

    def call(self, method: str, **parameters: Any) -> Any:
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv())
            if message.get("id") == self._number:
                return message.get("result")
            self.events.append(message)

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression, awaited. Raises `RuntimeError` with what it throws."""
        answer = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(json.dumps(answer["exceptionDetails"])[:1000])
        return answer["result"].get("value")

    def wait_for(self, expression: str, seconds: float = 60) -> Any:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if value := self.evaluate(expression):
                return value
            time.sleep(0.1)
        raise TimeoutError(expression)

    def watch(self) -> None:
        """Keep errors and requests from now on, for `errors` and `requests`."""
        for domain in ("Runtime", "Network"):
            self.call(f"{domain}.enable")

    def errors(self) -> list[str]:
        """Exceptions that nothing caught, and what was logged as an error."""
        thrown = [e["params"]["exceptionDetails"] for e in self._events("Runtime.exceptionThrown")]
        found = [each.get("exception", {}).get("description") or each["text"] for each in thrown]
        logged = [e["params"] for e in self._events("Runtime.consoleAPICalled")]
        for entry in logged:
            if entry["type"] == "error":
                words = (part.get("value") or part.get("description") or "" for part in entry["args"])
                found.append(" ".join(map(str, words)))
        return found

    def requests(self) -> list[str]:
        """Addresses that were asked for, without those of data in the page itself."""
        sent = (event["params"]["request"]["url"] for event in self._events("Network.requestWillBeSent"))
        return [url for url in sent if not url.startswith(("data:", "blob:"))]

    def _events(self, method: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event.get("method") == method]

    def screenshot(self, path: Path) -> None:
        """Write what is to be seen as PNG."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def mouse(self, *points: tuple[float, float], button: str = "left") -> None:
        """Press at the first point, move over the others and release at the last; in pixels of the window."""
        self._mouse("mouseMoved", points[0], "none")
        self._mouse("mousePressed", points[0], button)
        for point in points[1:]:
            self._mouse("mouseMoved", point, button)
        self._mouse("mouseReleased", points[-1], button)

    def wheel(self, point: tuple[float, float], down: float) -> None:
        """Turn the wheel over a point, by so many pixels downwards."""
        x, y = point
        self.call("Input.dispatchMouseEvent", type="mouseWheel", x=x, y=y, deltaX=0, deltaY=down)

    def press(self, key: str, *, shift: bool = False) -> None:
        """Press and release a key, named as in `KeyboardEvent.key`."""
        text = {"text": key} if len(key) == 1 else {}
        code = KEY_CODES.get(key, ord(key[0]))
        common = {"key": key, "modifiers": 8 * shift, "windowsVirtualKeyCode": code}
        self.call("Input.dispatchKeyEvent", type="keyDown", **common, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def _mouse(self, kind: str, point: tuple[float, float], button: str) -> None:
        x, y = point
        pressed = {"buttons": 1 if button == "left" else 4 if button == "middle" else 0}
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button=button, clickCount=1, **pressed)

    def close(self) -> None:
        self._socket.close()


@contextmanager
def browsing(url: str, profile: Path) -> Iterator[Page]:
    """A page at `url`; everything the browser keeps is in `profile`, complete after the end."""
    command = [find_browser(), *FLAGS, f"--user-data-dir={profile}", url]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + START_SECONDS
        ports = profile / "DevToolsActivePort"
        while not ports.exists() or not ports.read_text().strip():
            assert time.monotonic() < end and process.poll() is None, "the browser did not start"
            time.sleep(0.1)
        port = ports.read_text().split()[0]
        pages = []
        while not pages:
            with urlopen(f"http://127.0.0.1:{port}/json/list", timeout=20) as answer:
                pages = [page for page in json.load(answer) if page["type"] == "page"]
        page = Page(pages[0]["webSocketDebuggerUrl"])
        try:
            yield page
        finally:
            page.call("Browser.close")
            page.close()
            process.wait(timeout=20)
    finally:
        process.kill()
        process.wait()
