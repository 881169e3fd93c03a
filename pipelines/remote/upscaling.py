"""Pictures in, pictures out, each by one request that is paid for once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from ..errors import UpscalerError
from .credentials import find_credential
from .errors import CredentialError, RemoteError, SpendLimitError
from .journal import Entry, Journal
from .options import RemoteOptions
from .payload import PICTURE_FIELD
from .pictures import decode, encode_png
from .preparing import Prepared, RemotePicture, Upscaled, finish, prepare, refuse_black
from .queue_client import QueueClient
from .requests import Event, Requests, ignore
from .result_cache import ResultCache
from .scrubbing import Scrubber
from .settings import Server, UserSettings, load_settings
from .spending import check_spending, fetch_price
from .transport import Transport, wait_out
from .uploads import DATA_URI_BYTES, Uploader, data_uri

Found = TypeVar("Found")

CLEANUP_SECONDS = 15.0
"""Longest that cancelling what was submitted may take; usually it is a round trip."""


class RemoteUpscaler:
    """Calls one app with one key; use as an async context.

    `folder` is the private folder of keys, settings, journal and cache; `environment` may hold FAL_KEY.
    Raises `RemoteError` and its kinds throughout; `PictureError` for what cannot be sent.
    """

    def __init__(
        self,
        *,
        folder: Path,
        environment: Mapping[str, str],
        options: RemoteOptions,
        report: Callable[[Event], None] = ignore,
    ) -> None:
        self.options = options
        self.settings: UserSettings = load_settings(folder)
        self.server, self.app = self.settings.locate(options.endpoint)
        self.journal = Journal(folder)
        self.cache = ResultCache(folder, int(self.settings.cache_megabytes * 2**20))
        self.report = report
        self._folder, self._environment = folder, environment
        self._clients: dict[tuple[str, str, str], QueueClient] = {}
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> RemoteUpscaler:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def upscale(
        self, pictures: Sequence[RemotePicture], take: Callable[[int, Upscaled], None] | None = None
    ) -> list[Upscaled]:
        """The results of all pictures, in order.

        With `take`, each is handed to it (in a thread) when it is there, by its number, and only what is
        said about it is kept, so that many pictures need no more memory than a few. A picture that fails does
        not stop the others, whose results are kept; then one error tells of all. When cancelled, so is
        everything that was submitted.
        """
        prepared = [await asyncio.to_thread(self._prepare, n, p) for n, p in enumerate(pictures)]
        requests = await self._requests(self.server, self.options.credential, self.app)
        await self._guard(requests, prepared)

        async def work(one: Prepared) -> Upscaled:
            entry, data = await requests.obtain(
                one.fingerprint,
                one.number,
                one.source.label,
                partial(self._arguments, one, requests),
                one.megapixels,
            )
            result = await asyncio.to_thread(finish, entry, data, one)
            if result.note:
                self.report(Event(one.number, "note", result.note, entry.request_id))
            if take is not None:
                await asyncio.to_thread(take, one.number, result)
                result = replace(result, image=result.image.new_empty(0))
            self.report(Event(one.number, "done", "done", entry.request_id))
            return result

        return await self._together([partial(work, one) for one in prepared], pictures)

    async def submit(self, pictures: Sequence[RemotePicture], *, webhook_url: str = "") -> list[Entry]:
        """Submit all pictures and wait for none; `collect` fetches the results by their request ids."""
        prepared = [await asyncio.to_thread(self._prepare, n, p) for n, p in enumerate(pictures)]
        requests = await self._requests(self.server, self.options.credential, self.app)
        await self._guard(requests, prepared)

        async def work(one: Prepared) -> Entry:
            entry = await requests.start(
                one.fingerprint,
                one.number,
                one.source.label,
                partial(self._arguments, one, requests),
                one.megapixels,
                webhook_url=webhook_url,
            )
            return self.journal.update(entry, collect=1)

        return await self._together([partial(work, one) for one in prepared], pictures)

    async def collect(self, request_ids: Sequence[str]) -> list[Upscaled]:
        """The results of requests, waiting for those that are not done.

        Those that were not submitted from here are looked for at the endpoint of the options.
        """

        async def work(number: int, request_id: str) -> Upscaled:
            entry = self.journal.by_request(request_id)
            if entry is None:
                requests = await self._requests(self.server, self.options.credential, self.app)
                entry = requests.adopt(request_id)
            else:
                requests = await self._requests(
                    self.settings.locate(f"{entry.server}:{entry.app}")[0], entry.credential, entry.app
                )
            try:
                entry, data = await requests.fetch(entry, number)
            except LookupError:
                raise RemoteError("the service no longer has this request's result", request_id) from None
            image = await asyncio.to_thread(decode, data, expected=None, request_id=entry.request_id)
            refuse_black(image, entry)
            self.journal.update(entry, collect=0)
            self.report(Event(number, "done", "done", entry.request_id))
            return Upscaled(image, entry.seed, entry.request_id)

        jobs = [partial(work, n, r) for n, r in enumerate(request_ids)]
        return await self._together(jobs, [f"request {r}" for r in request_ids])

    async def client_for(self, entry: Entry) -> QueueClient:
        """The protocol client that an entry's request is asked about with."""
        server, _ = self.settings.locate(f"{entry.server}:{entry.app}")
        return await self._client(server, entry.credential, entry.app)

    async def client(self) -> QueueClient:
        """The protocol client of the options' endpoint and key."""
        return await self._client(self.server, self.options.credential, self.app)

    async def _requests(self, server: Server, credential: str, app: str) -> Requests:
        client = await self._client(server, credential, app)
        return Requests(client, credential, self.journal, self.cache, self.options, self.report)

    async def _client(self, server: Server, credential: str, app: str) -> QueueClient:
        known = self._clients.get((server.name, credential, app))
        if known is not None:
            return known
        key, scrub = None, Scrubber()
        if server.credentials != ():
            found = find_credential(credential, folder=self._folder, environment=self._environment)
            if server.credentials is not None and found.name not in server.credentials:
                raise CredentialError(
                    f"the key {found.name} is not for the server {server.name}; its own are: "
                    + ", ".join(server.credentials)
                )
            key, scrub = found.key, Scrubber([found.key])
        transport = await self._stack.enter_async_context(Transport(server, key, scrub))
        client = QueueClient(transport, app)
        return self._clients.setdefault((server.name, credential, app), client)

    def _prepare(self, number: int, source: RemotePicture) -> Prepared:
        credential = self.options.credential if self.server.credentials != () else ""
        return prepare(number, source, server=self.server.name, app=self.app, credential=credential)

    async def _guard(self, requests: Requests, prepared: Sequence[Prepared]) -> None:
        """Check the limits for what will be submitted, and tell what it comes to."""
        new = {one.fingerprint: one for one in prepared if requests.is_needed(one.fingerprint)}
        if not new:
            return
        price = await fetch_price(requests.client.transport, self.app)
        sizes = [one.megapixels for one in new.values()]
        text = check_spending(
            sizes, price, settings=self.settings, options=self.options, journal=self.journal
        )
        requests.price = price
        self.report(Event(0, "plan", text))

    async def _arguments(self, one: Prepared, requests: Requests) -> dict[str, Any]:
        """The request, its picture uploaded."""
        if one.source.url:
            return {PICTURE_FIELD: one.source.url, **one.source.arguments}
        png = await asyncio.to_thread(lambda: encode_png(one.source.pixels()[0][0]))
        transport = requests.client.transport
        as_data = self.options.upload == "data" or not transport.server.rest_url
        if as_data or (self.options.upload == "auto" and len(png) <= DATA_URI_BYTES):
            return {PICTURE_FIELD: data_uri(png), **one.source.arguments}
        self.report(Event(one.number, "upload", f"uploading {len(png) / 1e6:.1f} MB"))
        uploader = Uploader(transport, self.options.keep_hours)
        url = await uploader.upload(png, seconds=self.options.transfer_timeout)
        return {PICTURE_FIELD: url, **one.source.arguments}

    async def _together(
        self, jobs: Sequence[Callable[[], Coroutine[Any, Any, Found]]], names: Sequence[Any]
    ) -> list[Found]:
        """Run all jobs, a few at a time; when cancelled, return only after they have cleaned up."""
        gate, hopeless = asyncio.Semaphore(self.options.concurrency), list[BaseException]()

        async def run(job: Callable[[], Awaitable[Found]]) -> Found:
            async with gate:
                if hopeless:
                    raise hopeless[0]
                try:
                    return await job()
                except (CredentialError, SpendLimitError) as error:
                    hopeless.append(error)
                    raise
                except UpscalerError:
                    raise  # this one's own trouble
                except Exception as error:
                    hopeless.append(error)
                    for task in tasks:
                        if task is not asyncio.current_task():
                            task.cancel()
                    raise

        tasks = [asyncio.create_task(run(job)) for job in jobs]
        try:
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        except asyncio.CancelledError:
            for task in tasks:
                task.cancel()
            await wait_out(tasks, CLEANUP_SECONDS)
            raise
        _raise_failures(outcomes, names)
        return list(outcomes)  # type: ignore[arg-type]


def _raise_failures(outcomes: Sequence[Any], names: Sequence[Any]) -> None:
    failures = [(n, outcome) for n, outcome in enumerate(outcomes) if isinstance(outcome, BaseException)]
    if not failures:
        return
    for _, error in failures:
        if not isinstance(error, UpscalerError | asyncio.CancelledError):
            raise error
    if len(outcomes) == 1 or isinstance(failures[0][1], CredentialError | SpendLimitError):
        raise failures[0][1]
    lines = [f"{getattr(names[n], 'label', names[n])}: {error}" for n, error in failures]
    raise RemoteError(
        f"{len(failures)} of {len(outcomes)} pictures failed; the others are kept, and cost nothing when "
        "this is run again.\n" + "\n".join(lines)
    )
