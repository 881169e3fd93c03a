"""No picture is paid for twice: not after lost answers, crashes, restarts, or when it is asked for again."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from creative_upscaler.pipelines.remote import queue_client, transport
from creative_upscaler.pipelines.remote.errors import (
    FailedError,
    RemoteError,
    ResultError,
    UnknownOutcomeError,
    UnreachableError,
)
from creative_upscaler.pipelines.remote.journal import Journal
from fal_records import Fault
from fal_server import KEY, FalServer
from remote_calls import photo, pictures, remote, upscale, write_settings

NGINX = "<html><center>nginx</center></html>"


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue_client, "backoff", lambda number: 0.01)
    monkeypatch.setattr(transport, "backoff", lambda number, first: 0.01)


def test_a_lost_answer_is_told_and_not_repeated_until_asked_to(fal: FalServer, private_folder: Path) -> None:
    fal.faults["submit"].append(Fault(drop=True, after=True))
    for _ in range(2):
        with pytest.raises(UnknownOutcomeError, match="if_unknown"):
            upscale(fal, private_folder, [photo()])
    assert len(fal.named("submit")) == 1
    upscale(fal, private_folder, [photo()], if_unknown="resubmit")
    assert len(fal.named("submit")) == 2


@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=200, body="{not json", after=True),
        Fault(status=504, body=NGINX, after=True),
        Fault(status=500, body='{"detail": "Internal"}', headers={"x-fal-request-id": "x"}, after=True),
        Fault(status=307, headers={"Location": "/queue/fal-ai/creative-upscaler"}, after=True),
    ],
    ids=["not json", "gateway", "server error", "redirect"],
)
def test_an_answer_that_says_nothing_certain_is_not_repeated(
    fal: FalServer, private_folder: Path, fault: Fault
) -> None:
    fal.faults["submit"].append(fault)
    with pytest.raises(UnknownOutcomeError):
        upscale(fal, private_folder, [photo()])
    assert len(fal.named("submit")) == 1


def test_what_certainly_did_not_arrive_is_sent_again(fal: FalServer, private_folder: Path) -> None:
    fal.faults["submit"].extend([Fault(status=429), Fault(status=503, body=NGINX)])
    upscale(fal, private_folder, [photo()])
    assert len(fal.jobs) == 1
    write_settings(private_folder, fal, queue_url="http://127.0.0.1:9/queue")
    with pytest.raises(UnreachableError, match="nothing was submitted"):
        upscale(fal, private_folder, [photo(1)])
    write_settings(private_folder, fal)
    upscale(fal, private_folder, [photo(1)])
    assert len(fal.jobs) == 2


CRASH = """
import os, sys
sys.path[:0] = [{tests!r}]
sys.argv = ["crash"]
import importlib.util
spec = importlib.util.spec_from_file_location("conftest", {conftest!r})
spec.loader.exec_module(importlib.util.module_from_spec(spec))
from pathlib import Path
from creative_upscaler.pipelines.remote.requests import Requests
from remote_calls import photo, upscale
Requests._submitted = lambda *_: os.kill(os.getpid(), 9)
upscale(None, Path({folder!r}), [photo()])
"""


def test_a_crash_before_the_id_is_written_is_told_and_the_result_can_be_collected(
    fal: FalServer, private_folder: Path
) -> None:
    tests = Path(__file__).parent
    paths = {
        "tests": str(tests),
        "conftest": str(tests.parent / "conftest.py"),
        "folder": str(private_folder),
    }
    crashed = subprocess.run((sys.executable, "-c", CRASH.format(**paths)), capture_output=True, text=True)
    assert crashed.returncode == -9, crashed.stderr
    assert [entry.state for entry in Journal(private_folder).entries()] == ["submitting"]
    with pytest.raises(UnknownOutcomeError, match="stopped while submitting"):
        upscale(fal, private_folder, [photo()])

    async def collect() -> torch.Tensor:
        async with remote(private_folder) as upscaler:
            return (await upscaler.collect(list(fal.jobs)))[0].image

    assert asyncio.run(collect()).shape == (3, 48, 64)
    assert len(fal.jobs) == 1


def test_a_run_attaches_to_what_an_earlier_one_submitted(fal: FalServer, private_folder: Path) -> None:
    async def submit() -> None:
        async with remote(private_folder) as upscaler:
            await upscaler.submit(pictures([photo()]), webhook_url="https://example.com/hook?a=b")

    asyncio.run(submit())
    result = upscale(fal, private_folder, [photo()])[0]
    assert list(fal.jobs) == [result.request_id]
    assert fal.jobs[result.request_id].webhook == "https://example.com/hook?a=b"


def test_identical_input_is_free_unless_forced(fal: FalServer, private_folder: Path) -> None:
    first = upscale(fal, private_folder, [photo(), photo(1)], seed=None)
    fal.calls.clear()
    again = upscale(fal, private_folder, [photo(1), photo()], seed=None)
    assert fal.calls == []
    assert torch.equal(again[1].image, first[0].image) and torch.equal(again[0].image, first[1].image)
    upscale(fal, private_folder, [photo()] * 3, seed=None, force_new=True)
    assert len(fal.jobs) == 3  # one more, though the picture was there three times
    upscale(fal, private_folder, [photo()], seed=None, credential="default", settings={"creativity": 0.4})
    assert len(fal.jobs) == 4


def test_two_runs_at_a_time_pay_once(fal: FalServer, private_folder: Path) -> None:
    upscale(fal, private_folder, [photo(9)])
    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(upscale, fal, private_folder, [photo()]) for _ in range(2)]
        results = [run.result()[0] for run in runs]
    assert len(fal.jobs) == 2
    assert results[0].request_id == results[1].request_id


def test_twenty_pictures_run_two_at_a_time_and_keep_their_order(fal: FalServer, private_folder: Path) -> None:
    images = [photo(number) for number in range(20)]
    results = upscale(fal, private_folder, images, seed=100)
    assert fal.most_at_once == 2 and len(fal.jobs) == 20
    assert [result.seed for result in results] == [str(100 + number) for number in range(20)]
    sent = {job.arguments["seed"]: id for id, job in fal.jobs.items()}
    assert [result.request_id for result in results] == [sent[100 + number] for number in range(20)]


def test_a_picture_that_fails_does_not_cost_the_others(fal: FalServer, private_folder: Path) -> None:
    fal.faults["result"].append(
        Fault(status=500, body='{"detail": "boom"}', headers={"x-fal-request-id": "x"})
    )
    with pytest.raises(RemoteError, match=r"(?s)1 of 3 pictures failed.*picture \d: boom"):
        upscale(fal, private_folder, [photo(n) for n in range(3)])
    assert len(upscale(fal, private_folder, [photo(n) for n in range(3)])) == 3
    assert len(fal.jobs) == 4


def test_a_result_that_was_not_fetched_or_was_evicted_is_fetched_again(
    fal: FalServer, private_folder: Path
) -> None:
    fal.faults["file"].extend([Fault(status=500)] * 3)
    with pytest.raises(ResultError, match="cannot be fetched"):
        upscale(fal, private_folder, [photo()])
    upscale(fal, private_folder, [photo()])
    write_settings(private_folder, fal, cache_megabytes=0)
    upscale(fal, private_folder, [photo(1)])  # the newest result always stays; the other goes
    assert len(list((private_folder / "results").iterdir())) == 1
    upscale(fal, private_folder, [photo()])
    assert len(fal.jobs) == 2
    fal.files.clear()
    fal.jobs.clear()
    upscale(fal, private_folder, [photo(1)])  # evicted, and gone at the service too
    assert len(fal.jobs) == 1


def test_a_request_the_service_has_lost_is_told(fal: FalServer, private_folder: Path) -> None:
    fal.faults["status"].append(Fault(status=404))
    for match in ("does not know this request", "earlier attempt"):
        with pytest.raises(UnknownOutcomeError, match=match):
            upscale(fal, private_folder, [photo()])
    assert len(fal.jobs) == 1


def test_failures_of_the_service_are_not_taken_for_results(fal: FalServer, private_folder: Path) -> None:
    detail = {"detail": "Runner disconnected", "error_type": "runner_disconnected"}
    fal.failure = (503, detail, {"X-Fal-Error-Type": "runner_disconnected"})
    with pytest.raises(FailedError, match=r"Runner disconnected \(runner_disconnected\).*request [0-9a-f-]+"):
        upscale(fal, private_folder, [photo()])
    fal.failure = None
    upscale(fal, private_folder, [photo()])
    assert len(fal.jobs) == 2


def test_the_journal_says_what_was_spent_and_nothing_private(fal: FalServer, private_folder: Path) -> None:
    upscale(fal, private_folder, [photo()], settings={"prompt": "a very private prompt"})
    entry = Journal(private_folder).entries()[0]
    assert (entry.state, entry.seed, entry.credential) == ("done", "7", "default")
    assert entry.megapixels == pytest.approx(48 * 64 / 1e6) and float(entry.billed) == pytest.approx(0.0031)
    content = (private_folder / "journal.sqlite").read_bytes()
    for secret in (KEY, KEY.split(":")[1], "private prompt", "data:image"):
        assert secret.encode() not in content
    assert json.loads((private_folder / "settings.json").read_text())
    assert (private_folder / "journal.sqlite").stat().st_mode & 0o777 == 0o600


def test_what_stands_between_does_not_close_a_request(fal: FalServer, private_folder: Path) -> None:
    """A captive portal, or a proxy that wants a password, says nothing about what runs behind it."""
    for call in ("status", "result"):
        fal.faults[call].append(Fault(status=407, body="<html>Proxy login</html>"))
        with pytest.raises(RemoteError, match="cannot be asked for"):
            upscale(fal, private_folder, [photo()])
    upscale(fal, private_folder, [photo()])
    assert len(fal.jobs) == 1


def test_a_closed_request_can_be_collected_beside_the_one_that_replaced_it(
    fal: FalServer, private_folder: Path
) -> None:
    fal.faults["status"].append(Fault(status=404))
    with pytest.raises(UnknownOutcomeError):
        upscale(fal, private_folder, [photo()])
    first = next(iter(fal.jobs))
    fal.hold = True

    async def run() -> list[str]:
        async with remote(private_folder, if_unknown="resubmit") as upscaler:
            await upscaler.submit(pictures([photo()]))
            return [result.request_id for result in await upscaler.collect([first])]

    assert asyncio.run(run()) == [first]
    states = [entry.state for entry in Journal(private_folder).entries()]
    assert states == ["submitted", "done"]
