"""The remote nodes in a running ComfyUI, against a local server that speaks fal's protocol."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import pytest
from comfy_client import Run
from comfy_server import Server
from PIL import Image

from fal_records import Fault
from fal_server import KEY, FalServer, enlarge
from remote_calls import ENDPOINT, all_bytes, write_settings

Workflow = dict[str, Any]

SECRETS = (KEY, *KEY.split(":"))
seeds = iter(range(1000, 9000))
"""So that no run finds the result of another test."""


@pytest.fixture
def service(server: Server, fal: FalServer) -> FalServer:
    """The local server, listed in the settings of this ComfyUI, with its key set through the route."""
    write_settings(private(server), fal)
    assert change_key(server, {"name": "default", "key": KEY}) == (200, {"saved": True})
    return fal


def private(server: Server) -> Path:
    return server.folder / "user" / "__creative_upscaler"


def change_key(server: Server, body: dict[str, Any], method: str = "POST", **headers: str) -> tuple[int, Any]:
    sent = {"Content-Type": "application/json", "Origin": f"http://{server.client.address}"}
    sent |= {name.replace("_", "-"): value for name, value in headers.items()}
    url = f"http://{server.client.address}/creative_upscaler/credentials"
    request = Request(url, json.dumps(body).encode(), {k: v for k, v in sent.items() if v}, method=method)
    try:
        with urlopen(request, timeout=20) as answer:
            return answer.status, json.load(answer)
    except HTTPError as error:
        text = error.read().decode()
        return error.code, json.loads(text) if text.startswith("{") else {"error": text}


def node(server: Server, kind: str, **inputs: Any) -> Workflow:
    """A node with the defaults of its widgets, as the browser sends them."""
    sections = server.client.get(f"/object_info/{kind}")[kind]["input"]
    widgets = {**sections.get("required", {}), **sections.get("optional", {})}
    details = {name: (*spec, {})[1] for name, spec in widgets.items()}
    defaults = {name: detail["default"] for name, detail in details.items() if "default" in detail}
    return {"class_type": kind, "inputs": {**defaults, **inputs}}


def workflow(server: Server, kind: str = "CreativeUpscaler_Remote", **inputs: Any) -> Workflow:
    inputs = {"endpoint": ENDPOINT, "seed": next(seeds), **inputs}
    graph = {
        "1": node(server, "LoadImage", image="example.png"),
        "2": node(server, kind, image=["1", 0], **inputs),
    }
    if kind == "CreativeUpscaler_Remote":
        graph["3"] = node(server, "SaveImage", images=["2", 0])
        graph["4"] = node(server, "PreviewAny", source=["2", 2])
    return graph


def leaks(server: Server, *seen: Any) -> list[str]:
    """Secrets that can be found in what the server wrote, logged and tells."""
    (keys := private(server) / "credentials.json").rename(
        hidden := server.folder.parent / "credentials.hidden"
    )
    try:
        content = all_bytes(server.folder).decode(errors="replace")
    finally:
        hidden.rename(keys)
    for path in ("/history", "/queue", "/settings", "/creative_upscaler/remote", "/object_info"):
        content += server.client.fetch(path).decode()
    content += repr(seen)
    return [secret for secret in SECRETS if secret in content]


def has_job(fal: FalServer, count: int = 1) -> Callable[[Run], bool]:
    return lambda run: len(fal.jobs) == count and len(fal.named("status")) > 2


def test_a_picture_comes_back_and_nothing_tells_the_key(server: Server, service: FalServer) -> None:
    service.run_seconds = 0.8
    run = server.client.run(workflow(server, seed=5, prompt="a face"))
    assert run.outcome == "execution_success", run.error
    source = Image.open(server.folder / "input" / "example.png").convert("RGB")
    expected = np.asarray(enlarge(source, {"scale": 2}), float)
    assert np.abs(np.asarray(server.client.picture(run, "3").convert("RGB"), float) - expected).max() <= 1
    assert run.outputs["4"]["text"] == list(service.jobs)
    assert any("queued" in text or "running" in text for text in run.texts)
    assert any("step" in text for text in run.texts) and any("1 request" in text for text in run.texts)
    assert run.progress[-1][1:] == (4, 4)
    assert next(iter(service.jobs.values())).arguments["seed"] == 5
    assert leaks(server, run) == []


def test_an_interrupt_cancels_within_a_second_and_other_branches_run_meanwhile(
    server: Server, service: FalServer
) -> None:
    service.hold = True
    graph = workflow(server)
    graph["other"] = node(server, "ImageScaleBy", image=["1", 0], scale_by=2.0, upscale_method="area")
    graph["saved"] = node(server, "SaveImage", images=["other", 0])
    began: list[float] = []

    def is_time(run: Run) -> bool:
        if "saved" in run.executed and has_job(service)(run):
            began.append(time.monotonic())
            return True
        return False

    run = server.client.run(graph, interrupt_when=is_time)
    assert run.outcome == "execution_interrupted"
    job = next(iter(service.jobs.values()))
    assert 0 < job.cancelled_at - began[0] < 1
    assert leaks(server, run) == []


ECHO = json.dumps(
    {"detail": [{"loc": ["body", "scale"], "msg": f"no: Key {KEY}", "type": "t", "input": KEY}]}
)
FAILURES = {
    "scale: no": ("submit", Fault(status=422, body=ECHO)),
    "refuses the key": ("submit", Fault(status=401, body=json.dumps({"detail": f"bad {KEY}"}))),
    "nobody knows whether": ("submit", Fault(drop=True, after=True)),
    "cannot be asked for": ("status", Fault(status=418, body=f"Authorization: Key {KEY}")),
    "[HTTP 500]": ("result", Fault(status=500, body=ECHO, headers={"x-fal-request-id": "1"})),
    "is no PNG": ("file", Fault(status=200, body=KEY, headers={"Content-Type": "image/png"})),
}


def test_failures_are_told_in_its_words_without_the_key(server: Server, service: FalServer) -> None:
    runs = []
    for words, (call, fault) in FAILURES.items():
        service.faults[call].append(fault)
        run = server.client.run(workflow(server))
        assert run.outcome == "execution_error" and run.error["node_id"] == "2"
        message = run.error["exception_message"]
        assert words in message
        if call not in ("submit", "file"):
            assert list(service.jobs)[-1] in message
        runs.append(run)
    assert leaks(server, runs) == []


def test_an_error_elsewhere_cancels_what_was_submitted(server: Server, service: FalServer) -> None:
    service.hold = True
    graph = workflow(server)
    inputs = {"image": ["1", 0], "endpoint": ENDPOINT, "seed": next(seeds), "run_timeout": 1.0}
    graph["fails"] = node(server, "CreativeUpscaler_Remote", **inputs)
    graph["end"] = node(server, "PreviewImage", images=["fails", 0])
    run = server.client.run(graph)
    assert (run.outcome, run.error["node_id"]) == ("execution_error", "fails")
    end = time.monotonic() + 1
    while not all(job.cancelled_at for job in service.jobs.values()) and time.monotonic() < end:
        time.sleep(0.02)
    assert [bool(job.cancelled_at) for job in service.jobs.values()] == [True, True]


def test_requests_are_submitted_now_and_collected_later(server: Server, service: FalServer) -> None:
    service.hold = True
    submitted = server.client.run(workflow(server, "CreativeUpscaler_RemoteSubmit"))
    assert submitted.outcome == "execution_success", submitted.error
    (request,) = service.jobs
    assert submitted.outputs["2"]["text"] == [request]
    service.release()
    for ids in ("", request):
        graph = {"1": node(server, "CreativeUpscaler_RemoteCollect", request_ids=ids)}
        graph["2"] = node(server, "SaveImage", images=["1", 0])
        run = server.client.run(graph)
        assert run.outcome == "execution_success", run.error
        assert server.client.picture(run, "2").size == (154, 134)
    run = server.client.run({"1": node(server, "CreativeUpscaler_RemoteCollect"), "2": graph["2"]})
    assert "nothing to collect" in run.error["exception_message"]
    assert len(service.jobs) == 1


def test_keys_are_set_from_the_page_itself_and_never_told(server: Server, service: FalServer) -> None:
    told = server.client.get("/creative_upscaler/remote")
    assert told["credentials"] == [{"name": "default", "source": "file"}]
    assert (private(server) / "credentials.json").stat().st_mode & 0o777 == 0o600
    theft = {"name": "default", "key": "another-key-of-a-stranger"}
    port = server.client.address.split(":")[1]
    for headers in (
        {"Origin": "https://evil.example"},
        {"Origin": ""},
        {"Sec_Fetch_Site": "cross-site"},
        {"Content_Type": "text/plain"},
        {"Origin": f"http://rebound.example:{port}", "Host": f"rebound.example:{port}"},
    ):
        assert change_key(server, theft, **headers)[0] == 403, headers
    status, answer = change_key(server, {"name": "default", "key": KEY + "\n"})
    assert status == 400 and "whitespace" in answer["error"] and KEY not in str(answer)
    assert change_key(server, {"name": "default"})[0] == 400
    assert change_key(server, {"name": "second", "key": "a-second-key"})[0] == 200
    assert change_key(server, {"name": "second"}, "DELETE")[0] == 200
    assert json.loads((private(server) / "credentials.json").read_text()) == {"default": KEY}
    for path in ("/userdata?dir=__creative_upscaler", "/userdata/__creative_upscaler%2Fcredentials.json"):
        with pytest.raises(HTTPError):
            server.client.fetch(path)
    with pytest.raises(HTTPError):
        server.client.fetch("/creative_upscaler/credentials")


def test_a_workflow_cannot_send_a_key_to_a_strangers_server(server: Server, service: FalServer) -> None:
    for endpoint in (f"{service.url}/queue/fal-ai/creative-upscaler", "stranger:fal-ai/creative-upscaler"):
        run = server.client.run(workflow(server, endpoint=endpoint))
        assert run.outcome == "execution_error"
    assert service.calls == []
