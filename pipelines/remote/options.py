"""The settings of a remote run that are not fal's own, declared like `UpscaleParameters`' are."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from ..errors import ParameterError
from ..parameters import Parameter

UPLOADS = ("auto", "storage", "data")
ON_UNKNOWN = ("stop", "resubmit")

OPTIONS: tuple[Parameter, ...] = (
    Parameter(
        "endpoint",
        str,
        "fal-ai/creative-upscaler",
        "The app to call: any with this schema. server:owner/app is one on a server listed in your settings.",
    ),
    Parameter(
        "credential",
        str,
        "default",
        "Name of the key to use, never the key itself. default is FAL_KEY, else the key stored as default.",
    ),
    Parameter(
        "force_new",
        bool,
        False,
        "Pay again for a result that is already here. A request still running is waited for all the same.",
    ),
    Parameter(
        "max_megapixels",
        float,
        0.0,
        "Most megapixels of results in this run; above it nothing is submitted. "
        "0 is the limit of your settings.",
        minimum=0,
        maximum=100000,
        step=1,
        unit="MP",
        advanced=True,
    ),
    Parameter(
        "max_cost",
        float,
        0.0,
        "Most this run may cost in the currency of the price list. Refuses to start if the price is not "
        "known. 0 is the limit of your settings.",
        minimum=0,
        maximum=10000,
        step=0.01,
        advanced=True,
    ),
    Parameter(
        "concurrency",
        int,
        2,
        "Requests at a time; new fal accounts run 2.",
        minimum=1,
        maximum=40,
        step=1,
        unit="requests",
        advanced=True,
    ),
    Parameter(
        "queue_timeout",
        float,
        1800.0,
        "Longest wait for a request to start; then it is cancelled.",
        minimum=1,
        maximum=86400,
        step=1,
        unit="s",
        advanced=True,
    ),
    Parameter(
        "run_timeout",
        float,
        900.0,
        "Longest run of a request; then it is cancelled.",
        minimum=1,
        maximum=86400,
        step=1,
        unit="s",
        advanced=True,
    ),
    Parameter(
        "transfer_timeout",
        float,
        300.0,
        "Longest upload and longest download of a picture.",
        minimum=1,
        maximum=86400,
        step=1,
        unit="s",
        advanced=True,
    ),
    Parameter(
        "upload",
        str,
        "auto",
        "How pictures travel: storage uploads them to fal's, data puts them into the request, auto does that "
        "for small ones. Always as PNG.",
        choices=UPLOADS,
        advanced=True,
    ),
    Parameter(
        "if_unknown",
        str,
        "stop",
        "What to do about an earlier attempt of which nobody knows whether it was accepted: stop and say so, "
        "or resubmit and perhaps pay twice.",
        choices=ON_UNKNOWN,
        advanced=True,
    ),
    Parameter(
        "keep_hours",
        int,
        24,
        "How long fal keeps the uploaded picture and the result at their public addresses; 0 is the "
        "account's setting.",
        minimum=0,
        maximum=8760,
        step=1,
        unit="hours",
        advanced=True,
    ),
    Parameter(
        "store_payloads",
        bool,
        True,
        "Let fal store request and result (30 days). Off is more private, and leaves an hour to collect a "
        "result.",
        advanced=True,
    ),
)


@dataclass(frozen=True, kw_only=True)
class RemoteOptions:
    """How to run, each value checked on construction. Raises `ParameterError`."""

    endpoint: str = "fal-ai/creative-upscaler"
    credential: str = "default"
    force_new: bool = False
    max_megapixels: float = 0.0
    max_cost: float = 0.0
    concurrency: int = 2
    queue_timeout: float = 1800.0
    run_timeout: float = 900.0
    transfer_timeout: float = 300.0
    upload: str = "auto"
    if_unknown: str = "stop"
    keep_hours: int = 24
    store_payloads: bool = True
    poll_seconds: float = 0.5
    """First pause between two looks at a request; it grows to four times as much."""
    unreachable_seconds: float = 120.0
    """How long the service may be away before a wait is given up (the request stays)."""

    def __post_init__(self) -> None:
        for option in OPTIONS:
            if option.name == "credential":
                continue  # might be a key by mistake, which a message must not repeat
            object.__setattr__(self, option.name, option.check(getattr(self, option.name)))
        for name in ("poll_seconds", "unreachable_seconds"):
            if not getattr(self, name) > 0:
                raise ParameterError(name, "must be above 0")

    @classmethod
    def names(cls) -> tuple[str, ...]:
        return tuple(field.name for field in dataclasses.fields(cls))
