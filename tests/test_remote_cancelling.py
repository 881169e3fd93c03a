"""Stopping a run cancels at the service what it submitted, within a second, and keeps what was paid."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from creative_upscaler.pipelines.remote import following, transport
from creative_upscaler.pipelines.remote.errors import RemoteError, TimeLimitError
from creative_upscaler.pipelines.remote.journal import Journal
from fal_records import Fault
from fal_server import FalServer
from remote_calls import photo, pictures, remote, upscale


def interrupted(
    folder: Path, when: Callable[[], bool], *, count: int = 1, notes: list[str] | None = None, **changes: Any
) -> float:
    """Start a run, cancel it as soon as `when` holds, wait for its end; returns the moment of the cancel."""

    async def run() -> float:
        heard = [] if notes is None else notes
        report = lambda event: heard.append(event.text)  # noqa: E731
        async with remote(folder, report=report, **changes) as upscaler:
            task = asyncio.create_task(upscaler.upscale(pictures([photo(n) for n in range(count)])))
            while not when() and not task.done():
                await asyncio.sleep(0.005)
            moment = time.monotonic()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            return moment

    return asyncio.run(run())


def is_running(fal: FalServer, count: int = 1) -> Callable[[], bool]:
    return lambda: len(fal.jobs) == count and len(fal.named("status")) > 2 * count


def test_a_running_request_is_cancelled_within_a_second(fal: FalServer, private_folder: Path) -> None:
    fal.hold = True
    moment = interrupted(private_folder, is_running(fal), poll_seconds=0.05)
    job = next(iter(fal.jobs.values()))
    assert 0 < job.cancelled_at - moment < 1
    assert Journal(private_folder).entries()[0].state == "cancelling"
    fal.release()
    upscale(fal, private_folder, [photo()])
    assert len(fal.jobs) == 2  # the first made nothing


def test_all_that_run_are_cancelled_and_no_more_are_submitted(fal: FalServer, private_folder: Path) -> None:
    fal.hold = True
    moment = interrupted(private_folder, is_running(fal, 2), count=5)
    assert len(fal.jobs) == 2
    assert all(0 < job.cancelled_at - moment < 1 for job in fal.jobs.values())


def test_a_request_on_its_way_is_cancelled_once_its_id_is_known(fal: FalServer, private_folder: Path) -> None:
    fal.hold = True
    fal.faults["submit"].append(Fault(after=True, seconds=0.3))
    moment = interrupted(private_folder, lambda: bool(fal.jobs))
    assert 0 < next(iter(fal.jobs.values())).cancelled_at - moment < 1


def test_a_result_that_was_finished_first_is_kept(fal: FalServer, private_folder: Path) -> None:
    done_after = fal.queue_seconds + fal.run_seconds + 0.1
    is_done = lambda: any(time.monotonic() - j.created > done_after for j in fal.jobs.values())  # noqa: E731
    notes: list[str] = []
    interrupted(private_folder, is_done, notes=notes, poll_seconds=5.0)
    assert "finished before it could be cancelled" in notes[-1]
    upscale(fal, private_folder, [photo()])
    assert len(fal.jobs) == 1


def test_a_cancel_that_the_service_ignores_costs_nothing_twice(fal: FalServer, private_folder: Path) -> None:
    fal.hold = fal.refuses_cancel = True
    interrupted(private_folder, is_running(fal))
    fal.release()
    upscale(fal, private_folder, [photo()])
    assert len(fal.jobs) == 1


def test_an_unreachable_service_does_not_hold_an_interrupt_up(
    fal: FalServer, private_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "CANCEL_SECONDS", 0.3)
    fal.hold = True
    fal.faults["cancel"].extend([Fault(drop=True)] * 50)
    moment = interrupted(private_folder, is_running(fal))
    assert time.monotonic() - moment < 1
    assert Journal(private_folder).entries()[0].state == "submitted"
    fal.release()
    upscale(fal, private_folder, [photo()])
    assert len(fal.jobs) == 1


@pytest.mark.parametrize("phase", ["queue_timeout", "run_timeout"])
def test_a_request_out_of_time_is_cancelled(fal: FalServer, private_folder: Path, phase: str) -> None:
    fal.hold = True
    fal.queue_seconds = 60 if phase == "queue_timeout" else 0
    with pytest.raises(TimeLimitError, match=rf"more than 1 s \({phase}\).*; it was cancelled"):
        upscale(fal, private_folder, [photo()], **{phase: 1.0})
    assert all(job.cancelled_at for job in fal.jobs.values())


def test_a_slow_download_ends_and_is_made_up_for(fal: FalServer, private_folder: Path) -> None:
    fal.faults["file"].append(Fault(seconds=5))
    with pytest.raises(TimeLimitError, match="transfer_timeout"):
        upscale(fal, private_folder, [photo()], transfer_timeout=1.0)
    upscale(fal, private_folder, [photo()])
    assert len(fal.jobs) == 1


def test_a_service_that_stumbles_is_asked_again_and_then_given_up(
    fal: FalServer, private_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "backoff", lambda number, first: 0.05)
    fal.faults["status"].extend([Fault(status=429), Fault(status=502), Fault(drop=True)])
    fal.faults["result"].append(Fault(status=504))
    upscale(fal, private_folder, [photo()], unreachable_seconds=10.0)
    fal.faults["status"].extend([Fault(status=500)] * 1000)
    with pytest.raises(RemoteError, match="cannot be reached"):
        upscale(fal, private_folder, [photo(1)], unreachable_seconds=0.5)
    fal.faults["status"].clear()
    upscale(fal, private_folder, [photo(1)])  # it stayed there: attached to
    assert len(fal.jobs) == 2


def test_an_error_of_whom_it_is_told_to_cancels_all_that_runs(fal: FalServer, private_folder: Path) -> None:
    fal.hold = True

    def report(event: Any) -> None:
        if len(fal.named("status")) > 8:
            raise RuntimeError("the display is broken")

    fal.log_every = 0.01
    with pytest.raises(RuntimeError, match="display"):
        upscale(fal, private_folder, [photo(n) for n in range(4)], report=report)
    assert len(fal.jobs) == 2 and all(job.cancelled_at for job in fal.jobs.values())


def test_a_second_cancel_of_everything_leaves_nothing_half_done(fal: FalServer, private_folder: Path) -> None:
    """When another node fails, ComfyUI's `asyncio.run` cancels every task there is."""
    fal.hold = True
    fal.faults["submit"].append(Fault(after=True, seconds=0.4))  # one on its way, one running

    async def run() -> None:
        async with remote(private_folder) as upscaler:
            task = asyncio.create_task(upscaler.upscale(pictures([photo(n) for n in range(2)])))
            while len(fal.jobs) < 2 or not fal.named("status"):
                await asyncio.sleep(0.005)
            fal.faults["cancel"].append(Fault(seconds=0.3))
            for _ in range(2):
                task.cancel()
                await asyncio.sleep(0.05)
                for other in asyncio.all_tasks() - {asyncio.current_task()}:
                    other.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(run())
    states = {entry.state for entry in Journal(private_folder).entries()}
    assert states == {"cancelling", "unknown"}  # never "failed", after which it would be submitted again
    assert sum(bool(job.cancelled_at) for job in fal.jobs.values()) == 1
