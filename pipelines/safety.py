"""The safety check of results: diffusers' checker, a black picture on a hit, and a flag so that it is told.

The checker compares CLIP's summary of a picture with those of 17 concepts, each with a threshold of its own
(CompVis/stable-diffusion-safety-checker; described in arXiv:2210.04610). Like diffusers' pipelines it sees
the middle square of a picture, 224 px wide: the ends of a long one are not looked at.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import CLIPImageProcessor

from .errors import MemoryLimitError, MissingSafetyCheckerError, ModelFileError
from .models.networks import load_safety_network
from .models.parts import Part
from .resizing import check_image
from .runtime import Runtime

ACTIVATION_BYTES = 2**28
"""Upper estimate of what checking one picture needs beside the weights."""


@dataclass(frozen=True, eq=False)
class SafetyChecker:
    """A loaded checker and how it wants its pictures."""

    path: Path
    network: Any
    image_processor: Any

    @property
    def networks(self) -> list[nn.Module]:
        """What takes room on a device."""
        return [self.network]


@dataclass(frozen=True)
class SafetyResult:
    """The result of `check_safety`."""

    image: Tensor
    """The pictures, those that were flagged black and opaque; never the tensor that was given."""
    flags: list[bool]
    """For each picture whether it was flagged."""


def load_safety_checker(path: Path) -> SafetyChecker:
    """Load a checker from a folder that diffusers saved or a single file, on the CPU in float32.

    Takes the names of any version of transformers, in safetensors or a pickle of nothing but weights.
    Raises `ModelFileError` for what is missing, damaged, unsafe, or could never flag a concept.
    """
    part = Part.of_folder(path) if path.is_dir() else Part.of_file(path)
    network = load_safety_network(part)
    for name in ("concept_embeds", "special_care_embeds"):
        if not bool(getattr(network, name).norm(dim=1).all()):
            raise ModelFileError(
                path, f"is damaged: {name} holds an empty concept, which is never recognised"
            )
    side = network.config.vision_config.image_size
    # The published preprocessing, which is the class's default, at the size of this network.
    processor = CLIPImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    return SafetyChecker(path, network, processor)


@torch.inference_mode()
def check_safety(
    image: Tensor, checker: SafetyChecker | None, runtime: Runtime | None = None
) -> SafetyResult:
    """Replace flagged pictures of `[B,1|3|4,H,W]` float in 0..1 by black ones.

    The input is not modified; grey becomes colour. Colours under transparency are looked at too. Pictures
    are checked one by one, so none depends on the others.
    Raises `MissingSafetyCheckerError` without a checker, `ModelFileError` when it does not come to a verdict
    (nothing is passed on then), `PictureError`, `MemoryLimitError`, and what `runtime.progress` raises.
    """
    if checker is None:
        raise MissingSafetyCheckerError
    runtime = runtime or Runtime()
    checked = check_image(image).clone()
    flags = []
    for index, picture in enumerate(checked):
        runtime.progress("check safety", index, len(checked))
        try:
            runtime.memory.load(*checker.networks, activation_bytes=ACTIVATION_BYTES)
            flags.append(_is_flagged(picture[:3], checker, runtime.memory.device))
        except Exception as error:
            if not runtime.memory.is_out_of_memory(error):
                raise
            raise MemoryLimitError(
                "the safety checker does not fit into memory; free memory, or switch enable_safety_checks off"
            ) from error
        if flags[-1]:
            picture[:3], picture[3:] = 0, 1
    runtime.progress("check safety", len(checked), len(checked))
    return SafetyResult(checked, flags)


def _is_flagged(picture: Tensor, checker: SafetyChecker, device: torch.device) -> bool:
    """The verdict on colours `[3,H,W]` by diffusers' own code."""
    pixels = (picture * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    clip_input = checker.image_processor(images=Image.fromarray(pixels), return_tensors="pt")["pixel_values"]
    summaries: list[Tensor] = []
    hook = checker.network.visual_projection.register_forward_hook(
        lambda _module, _inputs, summary: summaries.append(summary)
    )
    try:
        # It blackens what it is given, so it is given something else.
        _, (flagged,) = checker.network(clip_input=clip_input.to(device), images=[np.zeros((1, 1, 3))])
    finally:
        hook.remove()
    # No comparison with NaN is true: a broken network would find everything harmless.
    if not all(bool(torch.isfinite(summary).all()) for summary in summaries) or not summaries:
        raise ModelFileError(checker.path, "gave no verdict (values that are not finite); get it again")
    return bool(flagged)
