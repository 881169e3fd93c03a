"""ComfyUI killed while it waits for a paid request, and stopped: neither loses nor repeats one."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from comfy_client import ComfyClient
from comfy_server import (
    PACK,
    ROOT,
    Server,
    command,
    find_hosts,
    free_port,
    host_environment,
    wait_until_ready,
)
from PIL import Image
from test_remote_nodes import SECRETS, workflow

from fal_server import KEY, FalServer
from remote_calls import all_bytes, write_settings


@pytest.fixture(scope="module")
def newest() -> Path:
    """One host is enough: what is tried here is the process's end, not the host's version."""
    hosts = find_hosts()
    if not hosts:
        pytest.skip("no ComfyUI: set COMFYUI_PATH to a checkout, or put one at ~/ComfyUI")
    return hosts[0]


@contextmanager
def process(
    host: Path, folder: Path, environment: dict[str, str]
) -> Iterator[tuple[Server, subprocess.Popen]]:
    port, log = free_port(), folder / "log.txt"
    with log.open("a") as output:
        running = subprocess.Popen(
            command(host, folder, port),
            cwd=host,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            # A test run in the background would hand down that SIGINT is ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        try:
            client = ComfyClient(f"127.0.0.1:{port}")
            wait_until_ready(client, running, log)
            yield Server(folder, client, log), running
        finally:
            running.kill()
            running.wait()


def start(server: Server, graph: dict[str, object]) -> None:
    server.client.post("/prompt", {"prompt": graph})


def wait_for(condition: object, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.02)


def test_a_killed_comfyui_attaches_to_its_request_and_a_stopped_one_cancels_it(
    newest: Path, fal: FalServer, tmp_path: Path
) -> None:
    for name in ("input", "output", "temp", "user", "custom_nodes", "models"):
        (tmp_path / name).mkdir()
    (tmp_path / "custom_nodes" / PACK).symlink_to(ROOT)
    Image.linear_gradient("L").resize((40, 30)).convert("RGB").save(tmp_path / "input" / "example.png")
    private = tmp_path / "user" / "__creative_upscaler"
    write_settings(private, fal)
    environment = {**host_environment(tmp_path), "FAL_KEY": KEY}
    fal.hold = True
    with process(newest, tmp_path, environment) as (server, running):
        told = server.client.get("/creative_upscaler/remote")
        assert told["credentials"] == [{"name": "default", "source": "environment"}]
        graph = workflow(server)
        start(server, graph)
        wait_for(lambda: len(fal.named("status")) > 2)
        running.send_signal(signal.SIGKILL)
        running.wait()
    fal.release()
    with process(newest, tmp_path, environment) as (server, running):
        run = server.client.run(graph)
        assert run.outcome == "execution_success", run.error
        assert len(fal.named("submit")) == 1 and fal.named("cancel") == []
        assert run.outputs["4"]["text"] == list(fal.jobs)
        assert server.client.picture(run, "3").size == (80, 60)
        fal.hold = True
        start(server, workflow(server))
        wait_for(lambda: len(fal.jobs) == 2 and fal.calls[-1].name == "status")
        moment = time.monotonic()
        running.send_signal(signal.SIGINT)
        wait_for(lambda: list(fal.jobs.values())[1].cancelled_at, 10)
        delay = list(fal.jobs.values())[1].cancelled_at - moment
        running.wait(timeout=20)
    assert delay < 1
    content = all_bytes(tmp_path).decode(errors="replace") + json.dumps(told) + repr(run)
    assert [secret for secret in SECRETS if secret in content] == []
    assert threading.active_count() < 20
