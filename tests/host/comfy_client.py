"""A small client of a running ComfyUI: queue a workflow, collect what is reported, fetch pictures."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import websocket
from PIL import Image

FINAL = ("execution_success", "execution_error", "execution_interrupted")
TEXT, PREVIEW = 3, 4


@dataclass
class Run:
    """What one queued workflow did."""

    outcome: str = ""
    error: dict[str, Any] = field(default_factory=dict)
    executed: list[str] = field(default_factory=list)
    """Nodes that ran, in order."""
    cached: list[str] = field(default_factory=list)
    """Nodes served from the cache."""
    progress: list[tuple[str, int, int]] = field(default_factory=list)
    """(node, done, total)"""
    texts: list[str] = field(default_factory=list)
    previews: list[Image.Image] = field(default_factory=list)
    outputs: dict[str, Any] = field(default_factory=dict)
    """What the output nodes published, by node."""
    seconds_after_interrupt: float = 0.0


class Rejected(Exception):
    """The workflow failed validation; `errors` holds the messages by node."""

    def __init__(self, answer: dict[str, Any]) -> None:
        super().__init__(json.dumps(answer))
        self.errors = answer.get("node_errors", {})


class ComfyClient:
    """Talks to the server at `address` (host:port)."""

    def __init__(self, address: str) -> None:
        self.address = address

    def get(self, path: str) -> Any:
        return json.loads(self.fetch(path))

    def fetch(self, path: str) -> bytes:
        with urlopen(f"http://{self.address}{path}", timeout=30) as answer:
            return answer.read()

    def post(self, path: str, body: dict[str, Any]) -> bytes:
        headers = {"Content-Type": "application/json"}
        request = Request(f"http://{self.address}{path}", json.dumps(body).encode(), headers)
        with urlopen(request, timeout=30) as answer:
            return answer.read()

    def run(
        self,
        workflow: dict[str, Any],
        *,
        interrupt_when: Callable[[Run], bool] | None = None,
        extra_data: dict[str, Any] | None = None,
        timeout: float = 120,
    ) -> Run:
        """Run a workflow in API form to its end. Raises `Rejected` when it does not pass validation."""
        client = uuid.uuid4().hex
        socket = websocket.create_connection(f"ws://{self.address}/ws?clientId={client}", timeout=timeout)
        try:
            socket.send(json.dumps({"type": "feature_flags", "data": {"supports_preview_metadata": True}}))
            prompt = self._queue({"prompt": workflow, "client_id": client, "extra_data": extra_data or {}})
            run, interrupted = Run(), 0.0
            while run.outcome == "":
                self._take(socket.recv(), prompt, run)
                if interrupt_when is not None and not interrupted and interrupt_when(run):
                    interrupted = time.monotonic()
                    self.post("/interrupt", {})
            run.seconds_after_interrupt = time.monotonic() - interrupted
        finally:
            socket.close()
        run.outputs = self._history(prompt)["outputs"]
        return run

    def picture(self, run: Run, node: str, index: int = 0) -> Image.Image:
        """A picture that an output node saved."""
        return Image.open(BytesIO(self.fetch("/view?" + urlencode(run.outputs[node]["images"][index]))))

    def _queue(self, body: dict[str, Any]) -> str:
        try:
            return json.loads(self.post("/prompt", body))["prompt_id"]
        except HTTPError as error:
            raise Rejected(json.loads(error.read())) from None

    def _history(self, prompt: str) -> dict[str, Any]:
        for _ in range(100):  # written a moment after the final event
            history = self.get(f"/history/{prompt}")
            if prompt in history:
                return history[prompt]
            time.sleep(0.05)
        raise TimeoutError(f"no history of {prompt}")

    @staticmethod
    def _take(message: str | bytes, prompt: str, run: Run) -> None:
        if isinstance(message, bytes):
            kind = int.from_bytes(message[:4], "big")
            length = int.from_bytes(message[4:8], "big")
            if kind == TEXT:
                run.texts.append(message[8 + length :].decode())
            elif kind == PREVIEW:
                run.previews.append(Image.open(BytesIO(message[8 + length :])))
            return
        event = json.loads(message)
        data = event["data"]
        if data.get("prompt_id") != prompt:
            return
        if event["type"] == "executing" and data["node"] is not None:
            run.executed.append(data["node"])
        elif event["type"] == "execution_cached":
            run.cached = data["nodes"]
        elif event["type"] == "progress":
            run.progress.append((data["node"], data["value"], data["max"]))
        elif event["type"] in FINAL:
            run.outcome, run.error = event["type"], data
