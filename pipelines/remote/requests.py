"""One request from fingerprint to result bytes: attached to, fetched again or submitted, never twice."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from .errors import FailedError, RejectedError, RemoteError, ResultError, TimeLimitError, UnknownOutcomeError
from .following import cancel, wait_until_completed
from .journal import Entry, Journal
from .options import RemoteOptions
from .payload import request_headers
from .queue_client import QueueClient, Request, SubmitCancelled
from .result_cache import ResultCache
from .results import fetch, read_output
from .settings import DASHBOARD
from .spending import Price

SUBMITTING_SECONDS = 300.0
"""Longest that a living process may be busy submitting, all retries included."""
KEPT_SECONDS = 3600.0
"""fal keeps results at least this long; a younger request that it does not know is a riddle."""


@dataclass(frozen=True)
class Event:
    """News about picture `number` (from 0)."""

    number: int
    kind: str
    """plan, upload, submitted, state, log, note or done."""
    text: str
    request_id: str = ""


def ignore(event: Event) -> None:
    """A report to nobody."""


Arguments = Callable[[], Awaitable[dict[str, Any]]]
"""Makes the request's JSON, uploading its picture."""


class Requests:
    """The requests of one app with one key."""

    def __init__(
        self,
        client: QueueClient,
        credential: str,
        journal: Journal,
        cache: ResultCache,
        options: RemoteOptions,
        report: Callable[[Event], None] = ignore,
    ) -> None:
        self.client = client
        self.credential = credential
        self.journal = journal
        self.cache = cache
        self.options = options
        self.report = report
        self.price: Price | None = None
        self._forced = set[str]()

    def is_needed(self, fingerprint: str) -> bool:
        """Whether a new request may have to be submitted (and paid) for this one."""
        entry = self.journal.find(fingerprint, force=self._is_forced(fingerprint))
        if entry is None or entry.state in ("cancelling", "unknown"):
            return True
        return entry.state == "done" and not self.cache.holds(entry)

    def _is_forced(self, fingerprint: str) -> bool:
        """Whether a finished result does not count; it does once this run has asked for it anew."""
        return self.options.force_new and fingerprint not in self._forced

    async def obtain(
        self, fingerprint: str, number: int, label: str, arguments: Arguments, megapixels: float | None
    ) -> tuple[Entry, bytes]:
        """The result of this request: from the cache, from one that runs or has run, or from a new one."""
        while True:
            entry = await self.start(fingerprint, number, label, arguments, megapixels)
            try:
                return await self.fetch(entry, number)
            except LookupError:
                # It is settled that there is no result to be had: `fetch` has closed the entry.
                self._tell(number, entry, "note", "the earlier result is no longer there; submitting again")

    async def start(
        self,
        fingerprint: str,
        number: int,
        label: str,
        arguments: Arguments,
        megapixels: float | None,
        *,
        webhook_url: str = "",
    ) -> Entry:
        """The journal's entry of this request, which is submitted if it was not."""
        while True:
            force = self._is_forced(fingerprint)
            entry = self.journal.find(fingerprint, force=force)
            if entry is None:
                content = await arguments()
                size = megapixels or 0.0
                entry, is_new = self.journal.claim(
                    fingerprint,
                    force=force,
                    server=self.client.transport.server.name,
                    app=self.client.app,
                    credential=self.credential,
                    label=self.client.scrub(label, 200),
                    megapixels=size,
                    cost=(self.price.of(size) if self.price else None) or 0.0,
                )
                if is_new:
                    self._forced.add(fingerprint)
                    return await self._submit(entry, number, content, webhook_url)
            if entry.state == "submitting":
                if not (entry.has_living_owner and entry.age < SUBMITTING_SECONDS):
                    entry = self.journal.update(entry, state="unknown", error="stopped while submitting")
                else:
                    await asyncio.sleep(0.1)  # the same picture, or another process: attach once it is there
                    continue
            if entry.state == "unknown":
                self._give_up_unknown(entry)
            elif entry.state == "completed" and force:
                self.journal.update(
                    entry, state="abandoned"
                )  # finished, if not fetched: not what was asked for
            else:
                return entry

    def _give_up_unknown(self, entry: Entry) -> None:
        if self.options.if_unknown == "resubmit":
            self.journal.update(entry, state="abandoned")
            return
        where = f"look at {DASHBOARD}" if self.client.transport.server.is_fal else "ask the server"
        raise UnknownOutcomeError(
            f"an earlier attempt at this very request ({entry.label}, {entry.age / 60:.0f} minutes ago) "
            f"ended without an answer ({entry.error or 'no reason known'}): it may be running, or paid. "
            f"Nothing was submitted: {where}, and collect it by its id; or set if_unknown to resubmit",
            entry.request_id,
        )

    async def _submit(self, entry: Entry, number: int, content: dict[str, Any], webhook_url: str) -> Entry:
        headers = request_headers(
            keep_hours=self.options.keep_hours, store_payloads=self.options.store_payloads
        )
        try:
            request = await self.client.submit(content, headers=headers, webhook_url=webhook_url)
        except SubmitCancelled as stopped:
            if stopped.request is None:
                self.journal.update(entry, state="unknown", error="stopped while submitting")
            else:
                await self._cancel(self._submitted(entry, stopped.request), stopped.request, number)
            raise
        except asyncio.CancelledError:
            self.journal.update(entry, state="failed", error="stopped before it was sent")
            raise
        except UnknownOutcomeError as error:
            self.journal.update(entry, state="unknown", error=str(error).split(". It is not")[0])
            raise
        except RemoteError as error:
            self.journal.update(entry, state="failed", error=str(error))
            raise
        except BaseException:
            self.journal.update(entry, state="unknown", error="an error of this program")
            raise
        entry = self._submitted(entry, request)
        self._tell(number, entry, "submitted", "submitted")
        return entry

    def _submitted(self, entry: Entry, request: Request) -> Entry:
        return self.journal.update(entry, state="submitted", request_id=request.id, url=request.url)

    def adopt(self, request_id: str) -> Entry:
        """An entry for a request that was not submitted from here, or whose answer was lost."""
        request = self.client.locate(request_id)
        server = self.client.transport.server.name
        entry, _ = self.journal.claim(
            f"request:{server}:{self.client.app}:{request_id}",
            server=server,
            app=self.client.app,
            credential=self.credential,
            label=f"request {request_id}",
            megapixels=0.0,
            cost=0.0,
        )
        return entry if entry.request_id else self._submitted(entry, request)

    async def fetch(self, entry: Entry, number: int = 0) -> tuple[Entry, bytes]:
        """Wait for a submitted request and get its result, from the cache if it is there.

        Cancels the request when cancelled or out of time. Raises `LookupError`, the entry being closed, if
        there is no result to be had and nothing is running.
        """
        if entry.state == "done":
            data = self.cache.get(entry)
            if data is not None:
                self._tell(number, entry, "state", "from the cache of results")
                return entry, data
        request = replace(self.client.locate(entry.request_id), url=entry.url)
        was_cancelled = entry.state == "cancelling"
        try:
            if entry.state not in ("completed", "done"):
                await self._wait(entry, request, number)
            return await self._download(entry, request, number)
        except LookupError:
            if entry.state == "submitted" and entry.age < KEPT_SECONDS:
                self.journal.update(entry, state="unknown", error="the service does not know the request")
                raise UnknownOutcomeError(
                    f"the service says that it does not know this request, submitted {entry.age:.0f} s ago",
                    entry.request_id,
                ) from None
            self.journal.update(entry, state="failed" if was_cancelled else "abandoned")
            raise
        except (FailedError, RejectedError) as error:
            self.journal.update(entry, state="failed", error=str(error))
            if was_cancelled:
                raise LookupError(entry.request_id) from None
            raise

    async def _wait(self, entry: Entry, request: Request, number: int) -> None:
        def tell(kind: str, text: str) -> None:
            self._tell(number, entry, kind, text)

        try:
            await wait_until_completed(self.client, request, self.options, tell)
        except TimeLimitError as error:
            what = await self._cancel(entry, request, number)
            raise TimeLimitError(f"{error}; {what}") from None
        except (RemoteError, LookupError):
            raise  # the service's own word, or none at all: the next run attaches to it
        except BaseException:  # cancelled, or an error that has nothing to do with the request
            await self._cancel(entry, request, number)
            raise

    async def _cancel(self, entry: Entry, request: Request, number: int) -> str:
        """Cancel at the service and write down what came of it; returns that in words."""
        word = await cancel(self.client, request)
        if word == "ALREADY_COMPLETED":
            text = "it was finished before it could be cancelled: run again to get the result, which is paid"
        elif not word:
            text = "it could not be cancelled, as the service did not answer: run again to attach to it"
        else:
            self.journal.update(entry, state="cancelling", error=f"cancelled: {word}")
            text = f"it was cancelled ({word})"
        with suppress(Exception):  # whom it is told to may be what failed
            self._tell(number, entry, "note", text)
        return text

    async def _download(self, entry: Entry, request: Request, number: int) -> tuple[Entry, bytes]:
        url, is_gone = entry.result_url, False
        was_delivered = entry.state == "done"
        try:
            result = await self.client.result(request, patience=self.options.unreachable_seconds)
            billed = self.client.scrub(result.billable_units, 40)
            entry = self.journal.update(entry, state="completed", billed=billed)
            output = read_output(result.output, request.id)
            url = output.url
            shown = "" if url.startswith("data:") else url.partition("?")[0]
            entry = self.journal.update(entry, seed=output.seed, result_url=shown)
        except LookupError:
            if not url:
                raise
            is_gone = True  # but the picture may outlive what the service remembers of it
        self._tell(number, entry, "state", "fetching the result")
        try:
            data = await fetch(
                url,
                self.client.transport,
                seconds=self.options.transfer_timeout,
                request_id=request.id,
            )
        except ResultError:
            if is_gone and (was_delivered or entry.age > KEPT_SECONDS):
                raise LookupError(request.id) from None
            raise
        self.cache.put(entry, data)
        return self.journal.update(entry, state="done"), data

    def _tell(self, number: int, entry: Entry, kind: str, text: str) -> None:
        self.report(Event(number, kind, text, entry.request_id))
