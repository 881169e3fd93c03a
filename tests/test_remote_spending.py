"""What a run may cost, checked before anything is submitted; uploads; options; hosted pictures."""

from __future__ import annotations

import asyncio
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from creative_upscaler.pipelines.errors import ParameterError, PictureError
from creative_upscaler.pipelines.parameters import UpscaleParameters
from creative_upscaler.pipelines.remote import uploads
from creative_upscaler.pipelines.remote.errors import CredentialError, RemoteError, SpendLimitError
from creative_upscaler.pipelines.remote.options import RemoteOptions
from creative_upscaler.pipelines.remote.payload import check_model_url, make_arguments
from creative_upscaler.pipelines.remote.preparing import RemotePicture
from creative_upscaler.pipelines.remote.scrubbing import Scrubber
from creative_upscaler.pipelines.remote.settings import load_settings
from creative_upscaler.pipelines.remote.transport import Transport
from creative_upscaler.pipelines.remote.uploads import Uploader
from fal_records import Fault
from fal_server import KEY, FalServer
from remote_calls import APP, photo, remote, upscale, write_settings

MEGAPIXELS = 48 * 64 / 1e6
"""Of one result."""


def test_the_estimate_is_told_before_anything_is_submitted(fal: FalServer, private_folder: Path) -> None:
    fal.prices[APP] = (100.0, "megapixels")
    events: list[Any] = []

    def hear(event: Any) -> None:
        events.append((event.kind, event.text, len(fal.jobs)))

    upscale(fal, private_folder, [photo(), photo(1), photo(1)], seed=None, report=hear)
    kind, text, submitted = events[0]
    assert (kind, submitted) == ("plan", 0)
    assert "2 requests" in text and "0.614 USD (100 USD per megapixels)" in text
    fal.prices[APP] = (0.0, "compute seconds")
    events.clear()
    upscale(fal, private_folder, [photo(2)], report=hear)
    assert "cost not known before" in events[0][1]
    events.clear()
    upscale(fal, private_folder, [photo(2)], report=hear)
    assert [event for event in events if event[0] == "plan"] == []  # it is free


def test_limits_of_run_and_day_stop_before_submitting(fal: FalServer, private_folder: Path) -> None:
    fal.prices[APP] = (2.0, "image")
    write_settings(private_folder, fal, max_megapixels_per_run=2.5 * MEGAPIXELS, max_cost_per_day=7)
    upscale(fal, private_folder, [photo(), photo(1)])
    with pytest.raises(
        SpendLimitError, match=r"this run: 0\.009216 megapixels .*limit is 0\.00768.*nothing was submitted"
    ):
        upscale(fal, private_folder, [photo(n) for n in (2, 3, 4)], max_megapixels=100)  # no widget lifts it
    with pytest.raises(SpendLimitError, match="today: 8 USD"):
        upscale(fal, private_folder, [photo(2), photo(3)])
    with pytest.raises(SpendLimitError, match="this run: 2 USD"):
        upscale(fal, private_folder, [photo(2)], max_cost=1.5)
    upscale(fal, private_folder, [photo(), photo(1)], max_cost=0.01)  # there already: free
    fal.prices.clear()
    with pytest.raises(SpendLimitError, match="cannot be known"):
        upscale(fal, private_folder, [photo(2)])
    fal.faults["price"].append(Fault(status=500))
    write_settings(private_folder, fal)
    upscale(fal, private_folder, [photo(2)])
    assert len(fal.jobs) == 3


@pytest.mark.parametrize("as_data", [True, False])
def test_pictures_travel_as_png_without_loss(fal: FalServer, private_folder: Path, as_data: bool) -> None:
    image = photo(height=300, width=400) if not as_data else photo()
    upscale(fal, private_folder, [image])
    url = fal.named("submit")[0].body["image_url"]
    assert url.startswith("data:image/png;base64,") == as_data
    sent = np.array(fal._picture(url))
    assert np.array_equal(sent, (image[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8))
    assert bool(fal.named("upload")) != as_data
    if not as_data:
        headers = fal.named("upload")[0].headers
        assert json.loads(headers["x-fal-object-lifecycle"]) == {"expiration_duration_seconds": 86400}
    lifetime = fal.named("submit")[0].headers["x-fal-object-lifecycle-preference"]
    assert json.loads(lifetime) == {"expiration_duration_seconds": 86400}


def test_large_uploads_go_in_parts_and_survive_faults(
    fal: FalServer, private_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "backoff", lambda number: 0.02)
    server = load_settings(private_folder).servers["local"]
    data = bytes(range(256)) * 100

    async def send(**changes: Any) -> str:
        async with Transport(server, KEY, Scrubber([KEY])) as transport:
            return await Uploader(transport, **changes).upload(data, seconds=10)

    fal.faults["part"].extend([Fault(drop=True), Fault(status=503)])
    url = asyncio.run(send(multipart_bytes=10000, part_bytes=4000))
    assert fal.files[url.rpartition("/")[2]][0] == data
    assert len(fal.named("part")) == 7 + 2
    fal.faults["upload"].append(Fault(drop=True))
    url = asyncio.run(send())
    assert fal.files[url.rpartition("/")[2]][0] == data
    fal.faults["token"].append(Fault(status=401))
    with pytest.raises(CredentialError):
        asyncio.run(send())
    with pytest.raises(RemoteError, match="transfer_timeout"):
        fal.faults["upload"].append(Fault(seconds=3))
        upscale(fal, private_folder, [photo()], upload="storage", transfer_timeout=1)
    assert fal.jobs == {}


def test_a_hosted_picture_is_passed_on_untouched_and_not_read_here(
    fal: FalServer, private_folder: Path
) -> None:
    url = f"{fal.url}/elsewhere.jpg?signature=abc%2F"

    async def run(url: str) -> Any:
        arguments = make_arguments(UpscaleParameters(), seed=1)
        async with remote(private_folder) as upscaler:
            return (await upscaler.upscale([RemotePicture(arguments=arguments, label="hosted", url=url)]))[0]

    assert asyncio.run(run(url)).image.shape == (3, 16, 16)
    assert fal.named("submit")[0].body["image_url"] == url
    assert fal.named("elsewhere") == []
    assert b"signature" not in (private_folder / "journal.sqlite").read_bytes()
    for bad in ("file:///etc/passwd", "https://u:p@x.org/a.png", "x.png", "https://x.org/a b"):
        with pytest.raises(ParameterError, match="image_url"):
            asyncio.run(run(bad))


def test_a_result_too_large_to_be_read_is_not_ordered(fal: FalServer, private_folder: Path) -> None:
    with pytest.raises(PictureError, match="Nothing was submitted"):
        upscale(fal, private_folder, [torch.zeros(1, 1, 3000, 3000)], settings={"scale": 5.0})
    assert fal.jobs == {}


def test_models_are_named_by_https_addresses_of_safetensors() -> None:
    good = "https://huggingface.co/a/b/resolve/main/c.safetensors"
    assert check_model_url("base_model_url", good) == good
    assert make_arguments(UpscaleParameters(additional_lora_url=good), seed=1)["additional_lora_scale"] == 1
    for bad in (
        good.replace("https", "http"),
        good.replace("safetensors", "ckpt"),
        "https://u:p@x.org/c.safetensors",
    ):
        with pytest.raises(ParameterError, match="base_model_url"):
            make_arguments(UpscaleParameters(base_model_url=bad), seed=1)


def test_an_option_out_of_its_range_is_refused_and_a_key_in_place_of_its_name_not_repeated() -> None:
    with pytest.raises(ParameterError, match="concurrency"):
        RemoteOptions(concurrency=0)
    with pytest.raises(ParameterError) as refusal:
        RemoteOptions(credential=["secret"])
    assert "secret" not in str(refusal.value)


def test_private_options_are_sent_as_fals_headers(fal: FalServer, private_folder: Path) -> None:
    upscale(fal, private_folder, [photo()], keep_hours=0, store_payloads=False)
    headers = fal.named("submit")[0].headers
    assert headers["x-fal-store-io"] == "0" and "x-fal-object-lifecycle-preference" not in headers
    assert Image.open(io.BytesIO(next(iter(fal.files.values()))[0])).size == (64, 48)
