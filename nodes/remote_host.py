"""The door to ComfyUI's internals for nodes that wait for a server."""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import time
from collections.abc import Coroutine, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import comfy.model_management as management
import comfy.utils
import folder_paths
from comfy_execution.utils import get_executing_context
from server import PromptServer

if TYPE_CHECKING:
    from ..pipelines.remote.requests import Event

Found = TypeVar("Found")

WATCH_SECONDS = 0.1
"""How often an interrupt is looked for; ComfyUI never stops a node that waits by itself."""
SHUTDOWN_SECONDS = 2.0

STEPS = {"upload": 1, "submitted": 1, "state": 2, "note": 2, "done": 4}
"""How far a picture is after an event, of 4."""

TO_LOG = ("plan", "submitted", "note")
"""What is worth finding again after a crash."""

_running: set[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]]] = set()
"""What is to be cancelled when ComfyUI shuts down."""


def private_folder() -> Path:
    """The pack's folder of keys, settings and journal, which ComfyUI serves to nobody."""
    # As folder_paths.get_system_user_directory does since 0.8.0.
    return Path(folder_paths.get_user_directory()) / "__creative_upscaler"


def environment() -> Mapping[str, str]:
    return os.environ


class NodeReport:
    """Collects what the engine reports; `show` puts it on the node, whose execution it was made in.

    Apart from each other, for ComfyUI's progress bar raises when the user interrupts.
    """

    def __init__(self, count: int) -> None:
        context = get_executing_context()
        self._node = context.node_id if context is not None else None
        self._bar = comfy.utils.ProgressBar(4 * count, self._node)
        self._states = dict[int, str]()
        self._logs = dict[int, str]()
        self._steps = [0] * count
        self._plan = ""
        self._shown: tuple[str, int] = ("", -1)

    def __call__(self, event: Event) -> None:
        if event.kind in TO_LOG:
            number = f" ({event.request_id})" if event.request_id else ""
            logging.info("Creative Upscale (fal): %s%s", event.text, number)
        if event.kind == "plan":
            self._plan = event.text
            return
        if event.kind == "log":
            self._logs[event.number] = event.text
            return
        step = STEPS.get(event.kind, 0)
        self._steps[event.number] = max(self._steps[event.number], step)
        self._states[event.number] = event.text

    def show(self) -> None:
        text, done = self.text(), sum(self._steps)
        if (text, done) == self._shown:
            return
        self._shown = (text, done)
        if self._node is not None:
            PromptServer.instance.send_progress_text(text, self._node)
        self._bar.update_absolute(done)

    def text(self) -> str:
        """The estimate, how many are done, and what the others are at."""
        count = len(self._steps)
        lines = [self._plan] if self._plan else []
        if count > 1:
            lines.append(f"{self._steps.count(4)} of {count} done")
        busy = [(n, state) for n, state in sorted(self._states.items()) if self._steps[n] < 4]
        for number, state in busy[:4]:
            log = f": {self._logs[number]}" if self._logs.get(number) else ""
            lines.append(f"{number + 1}: {state}{log}" if count > 1 else f"{state}{log}")
        return "\n".join(lines)


async def run_interruptibly(work: Coroutine[Any, Any, Found], report: NodeReport) -> Found:
    """Await `work`, showing its progress. However this ends early, `work` is cancelled and has cleaned up.

    Raises ComfyUI's `InterruptProcessingException` when the user interrupts.
    """
    task = asyncio.create_task(work)
    entry = (asyncio.get_running_loop(), task)
    _running.add(entry)
    try:
        while not task.done():
            # Asked without clearing it, so that other nodes that wait see it too.
            if management.processing_interrupted():
                raise management.InterruptProcessingException()
            report.show()
            await asyncio.wait({task}, timeout=WATCH_SECONDS)
        report.show()
        return task.result()
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
        if not task.cancelled():
            task.exception()  # taken note of
        _running.discard(entry)


@atexit.register
def _cancel_everything() -> None:
    """Let what runs cancel its requests: at this point the thread that executes nodes is still alive."""
    for loop, task in list(_running):
        try:
            loop.call_soon_threadsafe(task.cancel)
        except RuntimeError:
            _running.discard((loop, task))  # its loop is closed
    end = time.monotonic() + SHUTDOWN_SECONDS
    while _running and time.monotonic() < end:
        time.sleep(0.02)
