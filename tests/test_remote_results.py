"""Results and error answers: what is accepted as a picture, from where, and what is told otherwise."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import https_server
from creative_upscaler.pipelines.remote import results
from creative_upscaler.pipelines.remote.errors import CredentialError, RejectedError, ResultError
from creative_upscaler.pipelines.remote.following import wait_until_completed
from creative_upscaler.pipelines.remote.queue_client import COMPLETED, Request, Status
from fal_records import Fault
from fal_server import FalServer, enlarge
from https_server import Served
from remote_calls import options, photo, upscale, write_settings


def png(width: int = 8, height: int = 8, mode: str = "RGB", **save: Any) -> bytes:
    file = io.BytesIO()
    Image.new(mode, (width, height), 1).save(file, **{"format": "PNG", **save})
    return file.getvalue()


def bomb(width: int, height: int) -> bytes:
    """A small file that says it is a huge picture."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    )


BAD_FILES = {
    "page": (b"<html>Sign in</html>", "text/html", "no picture"),
    "page called a picture": (b"<html>Sign in</html>", "image/png", "no PNG, JPEG or WebP"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image/svg+xml", "no picture"),
    "gif": (png(format="GIF"), "image/png", "no PNG, JPEG or WebP"),
    "cut off": (png(64, 64, mode="L")[:70], "image/png", "damaged"),
    "empty": (b"", "image/png", "no PNG"),
    "bomb": (bomb(13300, 13300), "image/png", "13300 x 13300"),
    "huge bomb": (bomb(60000, 60000), "image/png", "too many pixels"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_what_is_no_picture_is_refused(fal: FalServer, private_folder: Path, name: str) -> None:
    data, kind, message = BAD_FILES[name]
    fal.paint = lambda picture, arguments: picture
    fal.output = lambda job, output: fal.files.update({f"{job.id}.png": (data, kind)}) or output
    with pytest.raises(ResultError, match=message):
        upscale(fal, private_folder, [photo()])


BAD_ADDRESSES = {
    "http://127.0.0.1:1/x.png": "not an https address",
    "https://127.0.0.1/x.png": "not a public one",
    "https://[::ffff:10.0.0.1]/x.png": "not one of the allowed hosts",
    "https://169.254.169.254/latest/meta-data": "not one of the allowed hosts",
    "https://fal.media.evil.example/x.png": "not one of the allowed hosts",
    "https://user:secret@v3.fal.media/x.png": "user name",
    "file:///etc/passwd": "not an https address",
    "https://v3.fal.media:8443/x.png": "on port 8443",
}


@pytest.mark.parametrize("url", BAD_ADDRESSES)
def test_results_are_fetched_from_allowed_public_hosts_only(
    fal: FalServer, private_folder: Path, url: str
) -> None:
    write_settings(private_folder, fal, download_hosts=[".fal.media", "127.0.0.1"])
    fal.output = lambda job, output: {**output, "image": {"url": url + "?token=hush"}}
    with pytest.raises(ResultError, match=BAD_ADDRESSES[url]) as error:
        upscale(fal, private_folder, [photo()])
    assert "hush" not in str(error.value) and "secret" not in str(error.value)


def test_a_result_comes_through_the_guarded_door_without_the_key(
    fal: FalServer, private_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_settings(private_folder, fal, download_hosts=["models.test"])
    with https_server.running() as files:
        monkeypatch.setattr(results, "DownloadPolicy", files.policy)
        files.served["/a.png"] = Served(png(64, 48))
        files.served["/page"] = Served(b"<html>", type="text/html")
        files.served["/moved"] = Served(status=302, location=files.url("/a.png", "other.test"))
        for path, message in (("/a.png", ""), ("/page", "no picture"), ("/moved", "not one of the allowed")):
            fal.output = lambda job, output, path=path: {
                "image": {"url": files.url(path) + "?sig=1"},
                "seed": 3,
            }
            if message:
                with pytest.raises(ResultError, match=message):
                    upscale(fal, private_folder, [photo()], force_new=True)
            else:
                result = upscale(fal, private_folder, [photo()])[0]
                assert result.image.shape == (3, 48, 64) and result.seed == "3"
        monkeypatch.setattr(results, "MAX_BYTES", 100)
        files.served["/large"] = Served(bytes(101))
        fal.output = lambda job, output: {"image": {"url": files.url("/large")}}
        with pytest.raises(ResultError, match="at most 100 are allowed"):
            upscale(fal, private_folder, [photo(1)])
    assert all("Authorization" not in headers for headers in files.asked)


def test_a_picture_inside_the_result_is_read_and_nothing_else_is(
    fal: FalServer, private_folder: Path
) -> None:
    url = "data:image/png;base64," + base64.b64encode(png(64, 48)).decode()
    fal.output = lambda job, output: {"images": [{"url": url}]}
    assert upscale(fal, private_folder, [photo()])[0].image.shape == (3, 48, 64)
    bad: list[dict[str, Any]] = [{}, {"image": None}, {"image": {"url": 3}}, {"image": "x"}, {"images": []}]
    for number, output in enumerate(bad):
        fal.output = lambda job, _, output=output: output
        with pytest.raises(ResultError, match="holds no picture"):
            upscale(fal, private_folder, [photo(number + 1)])


def test_a_result_that_cannot_be_used_is_replaced_only_when_forced(
    fal: FalServer, private_folder: Path
) -> None:
    for number, image in enumerate(({"url": "https://elsewhere.example/x.png"}, {"size": 3})):
        fal.output = lambda job, output, image=image: {"image": image}
        for _ in range(2):
            with pytest.raises(ResultError):
                upscale(fal, private_folder, [photo(number)])
        assert len(fal.jobs) == 2 * number + 1
        fal.output = lambda job, output: output
        upscale(fal, private_folder, [photo(number)], force_new=True)
        assert len(fal.jobs) == 2 * number + 2


def test_a_black_result_is_told_unless_the_picture_was_black(fal: FalServer, private_folder: Path) -> None:
    fal.paint = lambda picture, arguments: Image.new("RGB", (64, 48))
    for _ in range(2):
        with pytest.raises(ResultError, match=r"wholly black.*enable_safety_checks"):
            upscale(fal, private_folder, [photo()])
    assert len(fal.jobs) == 1
    upscale(fal, private_folder, [torch.zeros(1, 3, 24, 32)])


def test_transparency_stays_here_and_odd_sizes_are_told(fal: FalServer, private_folder: Path) -> None:
    image = photo(channels=4)
    image[:, 3] = torch.linspace(0, 1, 32)
    result = upscale(fal, private_folder, [image])[0].image
    assert fal._picture(fal.named("submit")[0].body["image_url"]).mode == "RGB"
    assert result.shape == (4, 48, 64)
    assert np.abs(result[3, 5].numpy() - np.linspace(0, 1, 64)).max() < 0.05
    fal.paint = lambda picture, arguments: enlarge(picture, {"scale": 4})
    assert "128 x 96 px, not 64 x 48" in upscale(fal, private_folder, [photo(1)])[0].note


def test_refusals_name_the_field_and_show_no_more_than_needed(fal: FalServer, private_folder: Path) -> None:
    detail = [
        {
            "loc": ["body", "scale"],
            "msg": "must be at most 5",
            "type": "less_than_equal",
            "input": "x" * 9000,
        },
        {"loc": ["body", "prompt"], "msg": "m" * 9000, "type": "value_error"},
    ]
    fal.failure = (422, {"detail": detail}, {})
    with pytest.raises(
        RejectedError, match=r"scale: must be at most 5 \(less_than_equal\).*request"
    ) as error:
        upscale(fal, private_folder, [photo()])
    assert error.value.fields["scale"] == "must be at most 5"
    assert error.value.request_id in fal.jobs and len(str(error.value)) < 900
    fal.key = "another"
    with pytest.raises(CredentialError, match=r"refuses the key.*check the key"):
        upscale(fal, private_folder, [photo(1)])
    fal.key = None
    fal.faults["submit"].append(Fault(status=402, body=json.dumps({"detail": "Exhausted balance"})))
    with pytest.raises(RejectedError, match=r"Exhausted balance.*balance"):
        upscale(fal, private_folder, [photo(1)])


def test_every_line_of_a_sliding_log_is_told_once() -> None:
    """fal shows the lines of the last minutes only."""

    class Client:
        shown = 0

        async def status(self, request: Request, *, patience: float) -> Status:
            self.shown += 1
            window = range(max(0, self.shown - 3), self.shown)
            state = COMPLETED if self.shown == 9 else "IN_PROGRESS"
            return Status(state, None, tuple((f"t{n}", f"line {n % 2}") for n in window))

    told: list[tuple[str, str]] = []
    request = Request("id", "url")
    asyncio.run(
        wait_until_completed(Client(), request, options(poll_seconds=0.001), lambda *news: told.append(news))
    )
    lines = [text for kind, text in told if kind == "log"]
    assert lines == [f"line {n % 2}" for n in range(9)]
