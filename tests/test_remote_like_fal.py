"""fal's own client and ours see the same server, and the same pictures."""

from __future__ import annotations

import asyncio
import io
import json
from pathlib import Path
from typing import Any

import aiohttp
import fal_client
import fal_client.client
import numpy as np
import pytest
import torch
from PIL import Image

from creative_upscaler.pipelines.parameters import UpscaleParameters
from creative_upscaler.pipelines.remote.payload import fal_parameters, make_arguments
from fal_server import KEY, FalServer
from remote_calls import APP, photo, upscale


@pytest.fixture
def official(fal: FalServer, monkeypatch: pytest.MonkeyPatch) -> fal_client.SyncClient:
    """fal's client with its hosts set to the local fal."""
    module = fal_client.client
    monkeypatch.setattr(module, "QUEUE_URL_FORMAT", f"{fal.url}/queue/")
    monkeypatch.setattr(module, "RUN_URL_FORMAT", f"{fal.url}/queue/")
    monkeypatch.setattr(module, "REST_URL", f"{fal.url}/rest")
    monkeypatch.setattr(module, "CDN_URL", f"http://localhost:{fal.port}/cdn")
    monkeypatch.setattr(module, "MAX_ATTEMPTS", 2)
    return fal_client.SyncClient(key=KEY)


def test_both_clients_get_the_same_picture(
    fal: FalServer, official: fal_client.SyncClient, private_folder: Path
) -> None:
    fal.run_seconds = 0.15  # long enough for some lines of the log
    image = photo()
    ours = upscale(fal, private_folder, [image], seed=7)[0]
    arguments = make_arguments(UpscaleParameters(), seed=7)
    pixels = (image[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    url = official.upload_image(Image.fromarray(pixels), format="png")
    lines: list[str] = []

    def on_update(status: Any) -> None:
        lines.extend(line["message"] for line in getattr(status, "logs", None) or [])

    theirs = official.subscribe(
        APP, {"image_url": url, **arguments}, with_logs=True, interval=0.02, on_queue_update=on_update
    )
    data = fal.files[theirs["image"]["url"].rpartition("/")[2]][0]
    picture = torch.from_numpy(np.array(Image.open(io.BytesIO(data)))).permute(2, 0, 1) / 255
    assert torch.equal(ours.image, picture)
    assert ours.seed == str(theirs["seed"]) == "7"
    assert "step 1" in lines
    sent = [{k: v for k, v in job.arguments.items() if k != "image_url"} for job in fal.jobs.values()]
    assert sent[0] == sent[1]


def test_the_official_client_passes_against_the_server(
    fal: FalServer, official: fal_client.SyncClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fal.hold = True
    handle = official.submit(
        APP, {"image_url": "https://example.com/a.png"}, webhook_url="https://example.com/h"
    )
    assert isinstance(handle.status(with_logs=True), fal_client.Queued | fal_client.InProgress)
    handle.cancel()
    assert fal.jobs[handle.request_id].cancelled_at
    with pytest.raises(fal_client.FalClientHTTPError):
        handle.get()
    big = tmp_path / "big.png"
    big.write_bytes(bytes(range(256)) * 100)
    for threshold, repository in ((10**9, "fal"), (10**9, "fal_v3"), (10000, "fal_v3")):
        monkeypatch.setattr(fal_client.client, "MULTIPART_THRESHOLD", threshold)
        monkeypatch.setattr(fal_client.client, "MULTIPART_CHUNK_SIZE", 4000)
        url = official.upload_file(big, repository=repository)
        assert fal.files[url.rpartition("/")[2]][0] == big.read_bytes()
    assert len(fal.named("part")) == 7
    fal.release()

    async def subscribe() -> dict[str, Any]:
        return await fal_client.AsyncClient(key=KEY).subscribe(
            APP, {"image_url": "https://example.com/a.png"}, with_logs=True
        )

    assert asyncio.run(subscribe())["image"]["width"] == 16


def test_every_setting_is_sent_under_fals_name_with_its_default() -> None:
    arguments = make_arguments(UpscaleParameters(), seed=None)
    assert "seed" not in arguments and make_arguments(UpscaleParameters(), seed=0)["seed"] == 0
    for parameter in fal_parameters():
        if parameter.default is not None and parameter.name != "additional_lora_scale":
            assert arguments[parameter.name] == parameter.default
    assert {"tile_size", "preset", "sampler"}.isdisjoint(arguments)


def test_the_servers_stream_of_events_tells_each_line_once(fal: FalServer, private_folder: Path) -> None:
    upscale(fal, private_folder, [photo()], seed=1)
    job = next(iter(fal.jobs))

    async def read() -> str:
        async with aiohttp.ClientSession(headers={"Authorization": f"Key {KEY}"}) as session:
            url = f"{fal.url}/queue/{APP}/requests/{job}/status/stream?logs=1"
            async with session.get(url) as answer:
                return await answer.text()

    events = [json.loads(line[6:]) for line in asyncio.run(read()).split("\n\n") if line]
    lines = [entry["message"] for event in events for entry in event["logs"]]
    assert lines and len(lines) == len(set(lines)) and events[-1]["status"] == "COMPLETED"
