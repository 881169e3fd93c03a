"""What the nodes of this pack hand to each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .compat import io

if TYPE_CHECKING:
    from ..pipelines.models import CreativeModels
    from .host import HostMemory

Models = io.Custom("CREATIVE_UPSCALE_MODELS")
"""The socket type of `HostModels`."""


@dataclass(frozen=True, eq=False)
class HostModels:
    """Loaded models and the ComfyUI memory management they are under.

    Branches of a workflow share the networks, each with LoRAs of its own.
    """

    models: CreativeModels
    memory: HostMemory
