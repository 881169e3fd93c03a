"""fal's queue protocol: submit once, look at the state with logs, fetch the result, cancel.

Documented at https://docs.fal.ai/model-apis/model-endpoints/queue; what the service sends is checked here.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlencode

from .errors import (
    CredentialError,
    FailedError,
    RejectedError,
    RemoteError,
    UnknownOutcomeError,
    UnreachableError,
)
from .messages import describe_refusal
from .settings import DASHBOARD
from .transport import Answer, LostError, NotSentError, Transport, backoff, wait_out

SUBMIT_ATTEMPTS = 4
SUBMIT_SECONDS = 60
GRACE_SECONDS = 5
"""How long an interrupt waits for the answer of a request that is on its way, to be able to cancel it."""

QUEUED, RUNNING, COMPLETED = "IN_QUEUE", "IN_PROGRESS", "COMPLETED"

_REQUEST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{5,127}\Z")


@dataclass(frozen=True)
class Request:
    """A request that the service has accepted, and where to ask about it."""

    id: str
    url: str
    """Of the result; the state is at `/status` below it and is cancelled at `/cancel`."""


class SubmitCancelled(asyncio.CancelledError):
    """The caller was cancelled while a request was on its way; what came of it is `request`.

    None means that nobody knows.
    """

    def __init__(self, request: Request | None) -> None:
        super().__init__()
        self.request = request


@dataclass(frozen=True)
class Status:
    """How far a request is."""

    state: str
    """`QUEUED`, `RUNNING` or `COMPLETED`; anything else a newer service may say."""
    position: int | None = None
    """Requests before this one, while queued."""
    logs: tuple[tuple[str, str], ...] = ()
    """(time, line): those of the last minutes, not all there were."""


@dataclass(frozen=True)
class Result:
    """What a finished request answered."""

    output: Mapping[str, Any]
    billable_units: str = ""


class QueueClient:
    """The protocol over a `Transport`."""

    def __init__(self, transport: Transport, app: str) -> None:
        self.transport = transport
        self.scrub = transport.scrub
        self.app = app
        self._base = transport.server.queue_url

    def locate(self, request_id: str) -> Request:
        """A request by its id. Raises `RemoteError` for what is no id."""
        if not _REQUEST_ID.match(request_id):
            raise RemoteError(f"{self.scrub(request_id, 80)!r} is no request id")
        owner_and_name = "/".join(self.app.split("/")[:2])
        return Request(request_id, f"{self._base}/{owner_and_name}/requests/{request_id}")

    async def submit(
        self, arguments: Mapping[str, Any], *, headers: Mapping[str, str], webhook_url: str = ""
    ) -> Request:
        """Submit once. Only what certainly did not arrive is sent again.

        Raises `UnknownOutcomeError` when nobody knows whether it arrived, `RejectedError`,
        `CredentialError` and `UnreachableError` when it certainly was not accepted; `SubmitCancelled` when
        cancelled on the way.
        """
        url = f"{self._base}/{self.app}"
        if webhook_url:
            url += "?" + urlencode({"fal_webhook": webhook_url})
        reason = ""
        for number in range(SUBMIT_ATTEMPTS):
            pause = backoff(number)
            try:
                answer = await self._post(url, arguments, headers)
            except NotSentError as error:
                reason = str(error)
            except LostError as error:
                raise self._unknown(f"there was no answer ({error})") from None
            else:
                if answer.status == 429 or (answer.status == 503 and answer.is_from_proxy):
                    reason = f"it answered {answer.status}"
                    pause = max(pause, answer.pause)
                else:
                    return self._accepted(answer)
            if number + 1 < SUBMIT_ATTEMPTS:
                await asyncio.sleep(pause)
        raise UnreachableError(f"nothing was submitted: {reason}, {SUBMIT_ATTEMPTS} times; try again later")

    async def _post(self, url: str, arguments: Mapping[str, Any], headers: Mapping[str, str]) -> Answer:
        """Send the request; when cancelled meanwhile, wait for the id to cancel it by."""
        sending = asyncio.create_task(
            self.transport.send("POST", url, body=dict(arguments), headers=headers, seconds=SUBMIT_SECONDS)
        )
        try:
            return await asyncio.shield(sending)
        except asyncio.CancelledError:
            await wait_out([sending], GRACE_SECONDS)
            if not sending.done() or sending.cancelled():
                sending.cancel()
                raise SubmitCancelled(None) from None
            try:
                request = self._accepted(sending.result())
            except (UnknownOutcomeError, LostError):
                raise SubmitCancelled(None) from None
            except (RemoteError, NotSentError):
                request = None  # it was not accepted
            if request is None:
                raise
            raise SubmitCancelled(request) from None

    def _accepted(self, answer: Answer) -> Request:
        if 400 <= answer.status < 500:
            raise self._refusal(answer, "")
        if not 200 <= answer.status < 300:
            raise self._unknown(f"the service answered {answer.status}")
        content = answer.json()
        request_id = content.get("request_id") if isinstance(content, dict) else None
        if not isinstance(request_id, str) or not _REQUEST_ID.match(request_id):
            raise self._unknown("the answer holds no request id")
        request = self.locate(request_id)
        # The service may keep requests elsewhere, but not at another host: that one would get the key.
        given = content.get("response_url")
        is_there = isinstance(given, str) and given.startswith(self._base + "/") and ".." not in given
        if is_there and given.endswith(f"/{request_id}"):
            return replace(request, url=given)
        return request

    def _unknown(self, reason: str) -> UnknownOutcomeError:
        where = f"look at {DASHBOARD}" if self.transport.server.is_fal else "ask the server"
        return UnknownOutcomeError(
            f"nobody knows whether the request was accepted: {reason}. It is not sent again by itself, as it "
            f"may be running and paid: {where}; collect it by its request id, or set if_unknown to resubmit"
        )

    async def status(self, request: Request, *, patience: float) -> Status:
        """Where a request is, retried for up to `patience` seconds.

        Raises `LookupError` if the service does not know it, `CredentialError` and `RemoteError`.
        """
        answer = await self.transport.send_safely(
            "GET",
            request.url + "/status?logs=1",
            patience=patience,
            seconds=30,
            is_fine=lambda answer: answer.status < 500 and answer.status != 429,
        )
        if answer.status == 404:
            raise LookupError(request.id)
        content = answer.json()
        if answer.status in (401, 403):
            raise self._refusal(answer, request.id)
        if answer.status not in (200, 202):
            # No word about the request itself, which may well be running.
            raise RemoteError(f"its state cannot be asked for: {self._describe(answer)}", request.id)
        if not isinstance(content, dict) or not isinstance(content.get("status"), str):
            raise RemoteError("the service's answer about the state cannot be understood", request.id)
        position = content.get("queue_position")
        logs = content.get("logs")
        return Status(
            content["status"],
            position if isinstance(position, int) else None,
            tuple(self._log_lines(logs if isinstance(logs, list) else [])),
        )

    def _log_lines(self, logs: list[Any]) -> list[tuple[str, str]]:
        entries = [entry for entry in logs if isinstance(entry, dict)]
        return [(str(e.get("timestamp", "")), self.scrub(e.get("message", ""), 300)) for e in entries]

    async def result(self, request: Request, *, patience: float) -> Result:
        """What a completed request made.

        Raises `LookupError` if the service no longer has it, `RejectedError` if it found fault with the
        request, `FailedError` if it failed.
        """
        answer = await self.transport.send_safely("GET", request.url, patience=patience, seconds=60)
        if answer.status in (404, 410):
            raise LookupError(request.id)
        if answer.status >= 500:
            raise FailedError(self._describe(answer), request.id)
        if not (200 <= answer.status < 300 or answer.is_from_app):
            raise RemoteError(f"the result cannot be asked for: {self._describe(answer)}", request.id)
        if not 200 <= answer.status < 300:
            raise self._refusal(answer, request.id)
        content = answer.json()
        if not isinstance(content, dict):
            raise FailedError("the service's result is no JSON object", request.id)
        return Result(content, answer.headers.get("x-fal-billable-units", ""))

    async def cancel(self, request: Request) -> str:
        """Ask to cancel; the service's word: CANCELLATION_REQUESTED, ALREADY_COMPLETED, NOT_FOUND, ...

        Raises `NotSentError` and `LostError` when there is no answer.
        """
        answer = await self.transport.send("PUT", request.url + "/cancel", seconds=5)
        content = answer.json()
        word = content.get("status") if isinstance(content, dict) else None
        if isinstance(word, str):
            return self.scrub(word, 60)
        return {200: "OK", 202: "CANCELLATION_REQUESTED", 404: "NOT_FOUND"}.get(
            answer.status, f"HTTP {answer.status}"
        )

    def _refusal(self, answer: Answer, request_id: str) -> RemoteError:
        text = self._describe(answer)
        if answer.status in (401, 403):
            return CredentialError(f"the service refuses the key: {text}", request_id)
        _, fields = describe_refusal(answer, self.scrub)
        return RejectedError(text, request_id, fields)

    def _describe(self, answer: Answer) -> str:
        text, _ = describe_refusal(answer, self.scrub)
        return text
