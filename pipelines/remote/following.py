"""Waiting for a submitted request, and cancelling it when the wait ends early."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from .errors import TimeLimitError
from .options import RemoteOptions
from .queue_client import COMPLETED, QUEUED, QueueClient, Request, Status
from .transport import LostError, NotSentError, wait_out

CANCEL_SECONDS = 3.0
SLOWEST = 4
"""The pause between two looks grows to this many times the first."""


async def wait_until_completed(
    client: QueueClient, request: Request, options: RemoteOptions, tell: Callable[[str, str], None]
) -> None:
    """Return when the service says that the request is complete, be it done or failed.

    `tell` gets each change of the `state` (with the queue position) and each new line of the `log`. Does not
    cancel anything itself. Raises `TimeLimitError`, and what `QueueClient.status` does.
    """
    clock = asyncio.get_running_loop().time
    start = running_since = clock()
    is_running = False
    shown, lines = "", set[tuple[str, str]]()
    pause = options.poll_seconds
    while True:
        status = await client.status(request, patience=options.unreachable_seconds)
        # The service keeps a window of the last lines, so that a line is known by its time, not its place.
        for line in status.logs:
            if line not in lines:
                lines.add(line)
                tell("log", line[1])
        if status.state == COMPLETED:
            return
        text = _describe(status)
        if text != shown:
            shown, pause = text, options.poll_seconds
            tell("state", text)
        if status.state != QUEUED and not is_running:
            is_running, running_since = True, clock()
        if is_running and clock() - running_since > options.run_timeout:
            raise TimeLimitError(f"it ran for more than {options.run_timeout:g} s (run_timeout)", request.id)
        if not is_running and clock() - start > options.queue_timeout:
            raise TimeLimitError(
                f"it was queued for more than {options.queue_timeout:g} s (queue_timeout)", request.id
            )
        await asyncio.sleep(pause)
        pause = min(pause * 1.3, options.poll_seconds * SLOWEST)


def _describe(status: Status) -> str:
    if status.state == QUEUED:
        return f"queued, {status.position} before it" if status.position is not None else "queued"
    return "running"


async def cancel(client: QueueClient, request: Request) -> str:
    """Ask the service to cancel, at most `CANCEL_SECONDS` long; its word, or empty if there was no answer.

    For use while being cancelled oneself: does not raise.
    """

    async def ask() -> str:
        while True:
            try:
                return await client.cancel(request)
            except (NotSentError, LostError):
                await asyncio.sleep(0.2)

    clock = asyncio.get_running_loop().time
    end = clock() + CANCEL_SECONDS
    while (left := end - clock()) > 0:
        task = asyncio.create_task(ask())
        await wait_out([task], left)
        if not task.done():
            task.cancel()
            break
        if not task.cancelled():  # by whoever cancels all there is: ask once more
            return "" if task.exception() else task.result()
    return ""
