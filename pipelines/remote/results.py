"""From a result's JSON to the bytes of its picture: where it may be fetched from, how much of it, how long.

fal's results are read through `downloads.open_public`; those of the user's own server from that server only.
Neither the file name nor the content type the server gives is used.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from threading import Event as Flag
from typing import Any

from ..downloads import DownloadPolicy, open_public
from ..errors import Cancelled, DownloadError
from .errors import ResultError, TimeLimitError
from .pictures import HARD_PIXELS
from .transport import LostError, NotSentError, Transport, backoff, origin

MAX_BYTES = 256 * 2**20
MAX_REDIRECTS = 3
CONNECT_SECONDS = 10.0
IDLE_SECONDS = 30.0
ATTEMPTS = 3
SIGNATURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")
"""How PNG and JPEG files begin."""


@dataclass(frozen=True)
class Output:
    """What a result says: where its picture is, and the seed as a decimal number or empty."""

    url: str
    seed: str


def read_output(output: Mapping[str, Any], request_id: str) -> Output:
    """The picture and seed in a result. Raises `ResultError` if there is no picture."""
    image = output.get("image")
    if image is None and isinstance(output.get("images"), list) and output["images"]:
        image = output["images"][0]
    url = image.get("url") if isinstance(image, dict) else None
    if not isinstance(url, str) or not url:
        known = ", ".join(sorted(str(name)[:40] for name in output)[:10]) or "nothing"
        raise ResultError(
            f"the result holds no picture (it has: {known}); is this the right app?", request_id
        )
    assert isinstance(image, dict)
    width, height = image.get("width"), image.get("height")
    if isinstance(width, int) and isinstance(height, int) and width * height > HARD_PIXELS:
        raise ResultError(f"the result is said to have {width} x {height} px, too many to read", request_id)
    seed = output.get("seed")
    return Output(url, str(seed) if isinstance(seed, int) and not isinstance(seed, bool) else "")


async def fetch(url: str, transport: Transport, *, seconds: float, request_id: str) -> bytes:
    """The bytes of a picture, at most `MAX_BYTES`, within `seconds`. The key is not sent.

    Raises `ResultError` and `TimeLimitError`; the request stays finished, and can be fetched again.
    """
    data = await _fetch(url, transport, seconds, request_id)
    is_picture = data.startswith(SIGNATURES) or (data[:4] == b"RIFF" and data[8:12] == b"WEBP")
    if not is_picture:
        raise ResultError("the result is no PNG, JPEG or WebP picture", request_id)
    return data


async def _fetch(url: str, transport: Transport, seconds: float, request_id: str) -> bytes:
    if url.startswith("data:"):
        return _read_data_uri(url, request_id)
    stop = Flag()
    try:
        if origin(url) == origin(transport.server.queue_url) and not transport.server.is_fal:
            return await asyncio.wait_for(_fetch_own(url, transport, request_id), seconds)
        # The thread ends a little later than the wait for it.
        reading = asyncio.to_thread(_fetch_public, url, transport, seconds, request_id, stop)
        return await asyncio.wait_for(reading, seconds)
    except asyncio.TimeoutError:
        raise TimeLimitError(
            f"downloading the result took more than {seconds:g} s (transfer_timeout); run again to fetch it, "
            "which costs nothing",
            request_id,
        ) from None
    finally:
        stop.set()


def _fetch_public(url: str, transport: Transport, seconds: float, request_id: str, stop: Flag) -> bytes:
    policy = DownloadPolicy(
        hosts=frozenset(transport.server.download_hosts),
        max_bytes=MAX_BYTES,
        max_redirects=MAX_REDIRECTS,
        connect_seconds=CONNECT_SECONDS,
        idle_seconds=IDLE_SECONDS,
        total_seconds=seconds,
    )

    def waiting() -> None:
        if stop.is_set():
            raise Cancelled

    try:
        with open_public(url, policy, waiting=waiting) as response:
            check_content_type(response.headers.get("Content-Type"), request_id)
            content = bytearray()
            for piece in response.chunks():
                waiting()
                content += piece
            return bytes(content)
    except DownloadError as error:
        raise ResultError(f"the result cannot be fetched: {transport.scrub(error)}", request_id) from None


async def _fetch_own(url: str, transport: Transport, request_id: str) -> bytes:
    for number in range(ATTEMPTS):
        try:
            answer = await transport.send("GET", url, authorized=False, seconds=3600, max_bytes=MAX_BYTES)
            if answer.status == 200:
                check_content_type(answer.headers.get("content-type"), request_id)
                return answer.body
            reason = f"the server answered {answer.status}"
        except (NotSentError, LostError) as error:
            reason = str(error)
        if number + 1 < ATTEMPTS:
            await asyncio.sleep(backoff(number, 0.2))
    raise ResultError(f"the result cannot be fetched: {reason}", request_id)


def _read_data_uri(url: str, request_id: str) -> bytes:
    head, _, content = url.partition(",")
    check_content_type(head[5:].split(";")[0], request_id)
    try:
        return base64.b64decode(content, validate=True)
    except binascii.Error:
        raise ResultError("the picture inside the result is damaged", request_id) from None


def check_content_type(kind: str | None, request_id: str) -> None:
    """Raise `ResultError` for a page where a picture should be. What it is, its bytes tell, not this."""
    if kind and kind.lower().startswith(("text/", "image/svg", "application/json")):
        raise ResultError(f"the result is {kind[:60]!r} and no picture", request_id)
