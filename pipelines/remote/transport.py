"""HTTP requests to one server: which of them carry the key, and what is certain when one fails."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from .errors import RemoteError, UnreachableError
from .scrubbing import Scrubber
from .settings import Server

AGENT = "comfyui-creative-upscaler"
ANSWER_BYTES = 16 * 2**20
"""Largest JSON answer; a result may hold a small picture as a data URI."""
CONNECT_SECONDS = 10
IDLE_SECONDS = 60
LONGEST_PAUSE = 30.0


class NotSentError(Exception):
    """The request certainly did not arrive: there was no connection."""


class LostError(Exception):
    """The request may have arrived; there is no answer."""


@dataclass(frozen=True)
class Answer:
    """What a server said. `headers` by lower-case name."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The body as JSON, or None."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None

    @property
    def is_from_proxy(self) -> bool:
        """Whether a proxy before the service answered, which then never saw the request."""
        return b"nginx" in self.body and "x-fal-request-id" not in self.headers

    @property
    def is_from_app(self) -> bool:
        """Whether this is what an app answered, and not something between it and here."""
        content = self.json()
        return "x-fal-request-id" in self.headers or (isinstance(content, dict) and "detail" in content)

    @property
    def pause(self) -> float:
        """Seconds the server asks to wait, else 0."""
        text = self.headers.get("retry-after", "")
        return min(float(text), LONGEST_PAUSE) if text.strip().isdigit() else 0.0


class Transport:
    """Sends requests; use as an async context.

    The key goes only to the origins of the server's queue, REST and price addresses, whatever it is asked
    for, and redirects are never followed.
    """

    def __init__(self, server: Server, key: str | None, scrub: Scrubber) -> None:
        self.server = server
        self.scrub = scrub
        self._key = key
        self._origins = {origin(url) for url in (server.queue_url, server.rest_url, server.price_url) if url}
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Transport:
        self._session = aiohttp.ClientSession(
            # A connection is used once, as a request lost on a stale one may or may not have arrived; a name
            # is looked up once, as there are no threads for that while the interpreter shuts down and a
            # request has still to be cancelled.
            connector=aiohttp.TCPConnector(force_close=True, limit=0, ttl_dns_cache=None),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": AGENT, "Accept-Encoding": "identity"},
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._session is not None
        await self._session.close()

    async def send(
        self,
        method: str,
        url: str,
        *,
        authorized: bool = True,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        seconds: float = 120,
        max_bytes: int = ANSWER_BYTES,
    ) -> Answer:
        """One request, sent once. `body` is bytes, or something to be sent as JSON.

        Raises `NotSentError`, `LostError`; `RemoteError` if it is asked to send the key elsewhere.
        """
        assert self._session is not None
        sent = dict(headers or {})
        if authorized:
            if origin(url) not in self._origins:
                raise RemoteError(f"refused to send a key to {self.scrub(origin(url))}")
            if self._key:
                sent["Authorization"] = f"Key {self._key}"
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
            sent["Content-Type"] = "application/json"
        timeout = aiohttp.ClientTimeout(total=seconds, sock_connect=CONNECT_SECONDS, sock_read=IDLE_SECONDS)
        try:
            async with self._session.request(
                method, url, data=body, headers=sent, timeout=timeout, allow_redirects=False
            ) as response:
                content = await _read(response, max_bytes)
                names = {name.lower(): value for name, value in response.headers.items()}
                return Answer(response.status, names, content)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.InvalidURL) as error:
            raise NotSentError(self.scrub(_reason(error))) from None
        except (aiohttp.ClientError, asyncio.TimeoutError, OSError, ValueError) as error:
            raise LostError(self.scrub(_reason(error))) from None

    async def send_safely(
        self,
        method: str,
        url: str,
        *,
        patience: float,
        first_pause: float = 0.5,
        is_fine: Callable[[Answer], bool] | None = None,
        **details: Any,
    ) -> Answer:
        """A request that may be repeated without harm: until it is answered, for up to `patience` seconds.

        Answers that are not fine (by default: `is_temporary` ones) count as none; pauses grow. Raises
        `UnreachableError`.
        """
        loop = asyncio.get_running_loop()
        end, number = loop.time() + patience, 0
        while True:
            asked = 0.0
            try:
                answer = await self.send(method, url, **details)
                if is_fine(answer) if is_fine else not is_temporary(answer):
                    return answer
                reason, asked = f"it answered {answer.status}", answer.pause
            except (NotSentError, LostError) as error:
                reason = str(error)
            pause = max(asked, backoff(number, first_pause))
            if loop.time() + pause > end:
                host = urlsplit(url).hostname
                raise UnreachableError(f"{host} cannot be reached: {reason}; try again later") from None
            await asyncio.sleep(pause)
            number += 1


async def wait_out(tasks: Sequence[asyncio.Task[Any]], seconds: float) -> None:
    """Wait until these are done, or so long, even if cancelled (again) meanwhile.

    For the end of something that must not be left half done; the caller is ending already.
    """
    clock = asyncio.get_running_loop().time
    end = clock() + seconds
    while not all(task.done() for task in tasks) and (left := end - clock()) > 0:
        with suppress(asyncio.CancelledError):
            await asyncio.wait(tasks, timeout=left)


def is_temporary(answer: Answer) -> bool:
    """Whether the same question may be answered a moment later: not if an app's own word was passed on."""
    return answer.status == 429 or (answer.status >= 500 and not answer.is_from_app)


def backoff(number: int, first: float = 0.5) -> float:
    """Seconds before retry `number` (from 0): doubling, with jitter, so that clients do not march in step."""
    return min(LONGEST_PAUSE, first * 2**number) * random.uniform(0.5, 1.5)


def origin(url: str) -> str:
    """Scheme, host and port of an address."""
    parts = urlsplit(url)
    default = {"https": 443, "http": 80}.get(parts.scheme, 0)
    return f"{parts.scheme}://{parts.hostname}:{parts.port or default}"


async def _read(response: aiohttp.ClientResponse, limit: int) -> bytes:
    content = bytearray()
    async for piece in response.content.iter_chunked(2**16):
        content += piece
        if len(content) > limit:
            raise aiohttp.ClientPayloadError(f"the answer has more than {limit} bytes")
    return bytes(content)


def _reason(error: BaseException) -> str:
    if isinstance(error, asyncio.TimeoutError):
        return "no answer in time"
    # The text of other exceptions can hold the headers that were sent.
    if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ClientPayloadError | OSError):
        return f"{type(error).__name__}: {error}"
    return type(error).__name__
