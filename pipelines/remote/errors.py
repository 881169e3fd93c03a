"""What can go wrong with a remote request.

UpscalerError
└── RemoteError           `request_id` names the request, once there is one
    ├── CredentialError   no key, a key that cannot be one, or one that the service refuses
    ├── RejectedError     the service says what is wrong with the request; `fields` maps names to messages
    ├── FailedError       the request was accepted, and failed there
    ├── UnknownOutcomeError  nobody knows whether the request was accepted: it is not repeated
    ├── UnreachableError  the service cannot be reached; a request that was submitted stays there
    ├── TimeLimitError    queueing, running or a transfer took longer than allowed
    ├── SpendLimitError   more than the limits allow
    └── ResultError       the result cannot be fetched, or is not a picture to be used

Messages are scrubbed of secrets where they are made (`scrubbing.Scrubber`), and exceptions of libraries are
replaced rather than chained: those hold headers.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import UpscalerError


class RemoteError(UpscalerError):
    """Base of everything a remote request can fail with."""

    def __init__(self, message: str, request_id: str = "") -> None:
        super().__init__(f"{message} (request {request_id})" if request_id else message)
        self.request_id = request_id


class CredentialError(RemoteError):
    """The key is missing, malformed or refused. Never holds the key."""


class RejectedError(RemoteError):
    """The service refuses the request as it is."""

    def __init__(self, message: str, request_id: str = "", fields: Mapping[str, str] | None = None) -> None:
        super().__init__(message, request_id)
        self.fields = dict(fields or {})


class FailedError(RemoteError):
    """The service accepted the request and could not carry it out."""


class UnknownOutcomeError(RemoteError):
    """The request may or may not have been accepted (and be paid); it is never sent again unasked."""


class UnreachableError(RemoteError):
    """The service did not answer, for all retries."""


class TimeLimitError(RemoteError):
    """One phase took longer than its limit."""


class SpendLimitError(RemoteError):
    """The run would exceed a limit that the user has set; nothing was submitted."""


class ResultError(RemoteError):
    """A finished request whose result cannot be used; it stays in the journal and is not paid again."""
