"""What the nodes of this pack hand to each other."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..pipelines.starter import Limits
from .compat import io

if TYPE_CHECKING:
    from ..pipelines.captioning import Captioner
    from ..pipelines.ccsr.loading import CcsrModels
    from ..pipelines.models import CreativeModels
    from ..pipelines.safety import SafetyChecker
    from .host import HostMemory

Models = io.Custom("CREATIVE_UPSCALE_MODELS")
"""The socket type of `HostModels`."""

CaptionerSocket = io.Custom("CREATIVE_UPSCALE_CAPTIONER")
"""The socket type of `HostCaptioner`."""

SafetySocket = io.Custom("CREATIVE_UPSCALE_SAFETY")
"""The socket type of `HostSafetyChecker`."""

CcsrSocket = io.Custom("CREATIVE_UPSCALE_CCSR")
"""The socket type of `HostCcsr`."""


@dataclass(frozen=True, eq=False)
class HostModels:
    """Loaded models and the ComfyUI memory management they are under.

    Branches of a workflow share the networks, each with LoRAs of its own.
    """

    models: CreativeModels
    memory: HostMemory
    limits: Limits = field(default_factory=Limits)
    """What the models say about the settings that suit them."""
    upscaler: Any = None
    """The starter's pre-upscaler, for where no upscale model is connected."""


@dataclass(frozen=True, eq=False)
class HostCaptioner:
    """A loaded captioner and the ComfyUI memory management it is under."""

    captioner: Captioner
    memory: HostMemory


@dataclass(frozen=True, eq=False)
class HostSafetyChecker:
    """A loaded safety checker and the ComfyUI memory management it is under."""

    checker: SafetyChecker
    memory: HostMemory


@dataclass(frozen=True, eq=False)
class HostCcsr:
    """Loaded CCSR networks and the ComfyUI memory management they are under."""

    models: CcsrModels
    memory: HostMemory
