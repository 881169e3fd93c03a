"""The whole creative upscale, stage by stage.

    image ─► size guard ─► caption ─► CCSR ─► redraw ─► safety check

A caption is made only where there is no prompt. Each stage is a function that can be called alone; what it
needs (models, memory) is bound to it by the caller.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .creative import Restore, Upscaled, upscale
from .errors import MissingSafetyCheckerError
from .models import CreativeModels
from .parameters import UpscaleParameters
from .resizing import check_image, target_size
from .runtime import Runtime
from .safety import SafetyResult


@dataclass(frozen=True, kw_only=True)
class Stages:
    """What goes before and after the redraw; None where there is no model for it."""

    describe: Callable[[Tensor], list[str]] | None = None
    """A prompt for each picture of `[B,C,H,W]`: `captioning.caption`."""
    restore: Restore | None = None
    """`ccsr.upscaling.ccsr_upscale`."""
    check: Callable[[Tensor], SafetyResult] | None = None
    """`safety.check_safety`."""


@dataclass(frozen=True, kw_only=True)
class Finished(Upscaled):
    """The result of `run_stages`."""

    flags: list[bool] | None
    """For each picture whether the safety check made it black; None where it was switched off."""
    notes: list[str]
    """What to tell the user."""


def run_stages(
    image: Tensor,
    parameters: UpscaleParameters,
    models: CreativeModels | None,
    stages: Stages,
    *,
    upscaler: Any = None,
    runtime: Runtime | None = None,
) -> Finished:
    """`creative.upscale` of `image` with the stages around it, as the settings ask for them.

    Without a captioner an empty prompt stays empty, and a note says so. Raises as `upscale` and the stages
    do, and before any work `MissingSafetyCheckerError` if the check is on and there is none.
    """
    if parameters.enable_safety_checks and stages.check is None:
        raise MissingSafetyCheckerError
    image = check_image(image)
    target_size(image.shape[2], image.shape[3], parameters)  # a picture too large is not captioned first
    prompts, notes = None, []
    if parameters.creativity > 0 and not parameters.prompt.strip():
        if stages.describe:
            prompts = stages.describe(image)
        else:
            notes.append("note: the prompt is empty and there is no captioner to write one")
    result = upscale(
        image,
        parameters,
        models,
        prompts=prompts,
        upscaler=upscaler,
        restore=None if parameters.skip_ccsr else stages.restore,
        runtime=runtime,
    )
    flags, picture = None, result.image
    if parameters.enable_safety_checks and stages.check:
        checked = stages.check(picture)
        flags, picture = checked.flags, checked.image
        hits = [str(number) for number, flag in enumerate(flags, 1) if flag]
        if hits:
            notes.append(f"warning: the safety check made {_pictures(hits)} black, of {len(flags)}")
    values = {field.name: getattr(result, field.name) for field in dataclasses.fields(result)}
    return Finished(**{**values, "image": picture}, flags=flags, notes=notes)


def _pictures(numbers: list[str]) -> str:
    return f"picture {numbers[0]}" if len(numbers) == 1 else f"pictures {', '.join(numbers)}"
