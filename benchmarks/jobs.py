"""What a program is asked to do, and what it offers to be measured by."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

CREATIVITY = 0.5
"""Denoising strength of every program."""

GUIDANCE = 7.5
CONTROL_WEIGHT = 0.25
PROMPT = "a photo of a lighthouse on a cliff"


class UnavailableError(Exception):
    """This program cannot do this job; says why."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One upscale: a square picture of `size` pixels per side, `scale` times larger."""

    family: str
    """`sd15`, `sdxl`, `narrow` or `tiny`"""
    size: int
    scale: float
    steps: int
    """Evaluated steps, each with guidance and ControlNet."""
    dtype: str
    """Name of the networks' torch type."""
    device: str
    checkouts: Mapping[str, str] = field(default_factory=dict)
    """Folders of the peers' sources, by program, and of ComfyUI."""
    dry: bool = False
    """Count the operations without computing the networks."""

    @property
    def side(self) -> int:
        """Of the result, in pixels."""
        return round(self.size * self.scale)

    def checkout(self, name: str) -> Path:
        """The folder given for `name`."""
        return Path(self.checkouts[name]).expanduser().resolve()

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


@dataclass(frozen=True, kw_only=True)
class Program:
    """A program ready to run."""

    run: Callable[[], Tensor]
    """Takes the picture to the result `[1,3,H,W]` in 0..1."""
    networks: Mapping[str, Sequence[nn.Module]]
    """By phase, see `metering.PHASES`."""
    settings: str
    """Where it differs from the others, for the report."""


def make_picture(size: int) -> Tensor:
    """A picture with smooth areas, edges and texture: `[1,3,size,size]` in 0..1."""
    import torch  # noqa: PLC0415  only the measuring processes load it

    generator = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.linspace(0, 1, size), torch.linspace(0, 1, size), indexing="ij")
    waves = torch.stack([x, y, (12 * x * y).sin().abs()])
    texture = 0.1 * torch.rand(3, size, size, generator=generator) * (x > 0.5)
    return (0.8 * waves + texture + 0.1 * ((x - 0.3) ** 2 + (y - 0.5) ** 2 < 0.04)).clamp(0, 1)[None]


def torch_dtype(job: Job) -> torch.dtype:
    import torch  # noqa: PLC0415

    return getattr(torch, job.dtype)
