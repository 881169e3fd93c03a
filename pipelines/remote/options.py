"""The settings of a remote run that are not fal's own, declared like `UpscaleParameters`' are."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import ParameterError
from ..settings import Settings, declare

UPLOADS = ("auto", "storage", "data")
ON_UNKNOWN = ("stop", "resubmit")


@dataclass(frozen=True, kw_only=True)
class RemoteOptions(Settings):
    """How to run, each value checked on construction. Raises `ParameterError`."""

    endpoint: str = declare(
        "fal-ai/creative-upscaler",
        "The app to call: any with this schema. server:owner/app is one on a server listed in your settings.",
    )
    credential: str = declare(
        "default",
        "Name of the key to use, never the key itself. default is FAL_KEY, else the key stored as default.",
    )
    force_new: bool = declare(
        False,
        "Pay again for a result that is already here. A request still running is waited for all the same.",
    )
    max_megapixels: float = declare(
        0.0,
        "Most megapixels of results in this run; above it nothing is submitted. "
        "0 is the limit of your settings.",
        minimum=0,
        maximum=100000,
        step=1,
        unit="MP",
        advanced=True,
    )
    max_cost: float = declare(
        0.0,
        "Most this run may cost in the currency of the price list. Refuses to start if the price is not "
        "known. 0 is the limit of your settings.",
        minimum=0,
        maximum=10000,
        step=0.01,
        advanced=True,
    )
    concurrency: int = declare(
        2,
        "Requests at a time; new fal accounts run 2.",
        minimum=1,
        maximum=40,
        step=1,
        unit="requests",
        advanced=True,
    )
    queue_timeout: float = declare(
        1800.0,
        "Longest wait for a request to start, in seconds; then it is cancelled.",
        minimum=1,
        maximum=86400,
        step=1,
        unit="s",
        advanced=True,
    )
    run_timeout: float = declare(
        900.0,
        "Longest run of a request, in seconds; then it is cancelled.",
        minimum=1,
        maximum=86400,
        step=1,
        unit="s",
        advanced=True,
    )
    transfer_timeout: float = declare(
        300.0,
        "Longest upload and longest download of a picture, in seconds.",
        minimum=1,
        maximum=86400,
        step=1,
        unit="s",
        advanced=True,
    )
    upload: str = declare(
        "auto",
        "How pictures travel: storage uploads them to fal's, data puts them into the request, auto does that "
        "for small ones. Always as PNG.",
        choices=UPLOADS,
        advanced=True,
    )
    if_unknown: str = declare(
        "stop",
        "What to do about an earlier attempt of which nobody knows whether it was accepted: stop and say so, "
        "or resubmit and perhaps pay twice.",
        choices=ON_UNKNOWN,
        advanced=True,
    )
    keep_hours: int = declare(
        24,
        "How many hours fal keeps the uploaded picture and the result at their public addresses; 0 is the "
        "account's setting.",
        minimum=0,
        maximum=8760,
        step=1,
        unit="hours",
        advanced=True,
    )
    store_payloads: bool = declare(
        True,
        "Let fal store request and result (30 days). Off is more private, and leaves an hour to collect a "
        "result.",
        advanced=True,
    )
    poll_seconds: float = 0.5
    """First pause between two looks at a request; it grows to four times as much."""
    unreachable_seconds: float = 120.0
    """How long the service may be away before a wait is given up (the request stays)."""

    def __post_init__(self) -> None:
        if not isinstance(self.credential, str):
            # It might be a key by mistake, which a message must not repeat.
            raise ParameterError("credential", "must be the name of a key")
        super().__post_init__()
        for name in ("poll_seconds", "unreachable_seconds"):
            if not getattr(self, name) > 0:
                raise ParameterError(name, "must be above 0")
