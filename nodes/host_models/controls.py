"""CONTROL_NETs for tiles: a copy for each batch of tiles, with the hint cropped from that of the canvas.

A ComfyUI ControlNet keeps its prepared hint for as long as the size of its input stays the same, so tiles of
one size would all be given the first one's. Copies are shallow: they share the network and what ComfyUI set
for the run (`pre_run`), and nothing has to be cleaned up after them.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from typing import Any

import comfy.controlnet
import comfy.utils
import torch
from torch import Tensor

from ...pipelines.tiling import Job


class CanvasControls:
    """All ControlNets of one run over a canvas, with hints prepared once."""

    def __init__(self) -> None:
        self._hints: dict[int, tuple[Any, _Hint | None]] = {}
        """By identity; the control is kept so that no other can take its place in memory."""

    def for_tiles(self, control: Any, jobs: Sequence[Job], canvas: Tensor, sigma: Tensor) -> Any:
        """A control, and those before it, for a batch of tiles of `canvas` `[B,C,...,h,w]`.

        One of no known kind is returned as it is, with a warning: it sees its whole hint in each tile.
        """
        if control is None:
            return None
        if id(control) not in self._hints:
            self._hints[id(control)] = control, _Hint.prepare(control, canvas, sigma)
        hint = self._hints[id(control)][1]
        if hint is None:
            return control
        tiled = copy.copy(control)
        tiled.previous_controlnet = self.for_tiles(control.previous_controlnet, jobs, canvas, sigma)
        hint.give(tiled, jobs)
        return tiled


class _Hint:
    """What a control is shown for the whole canvas."""

    def __init__(self, picture: Tensor, pixels: int, encoded: Tensor | None, extra: list[Tensor]) -> None:
        self.picture = picture
        """`[b,C,H,W]` of exactly the canvas, with `pixels` of them per latent along each side."""
        self.pixels = pixels
        self.encoded = encoded
        """`[b,C,...,h,w]` where the control encodes its hint with a VAE."""
        self.extra = extra

    @classmethod
    def prepare(cls, control: Any, canvas: Tensor, sigma: Tensor) -> _Hint | None:
        original = getattr(control, "cond_hint_original", None)
        if not isinstance(control, comfy.controlnet.ControlBase) or not isinstance(original, Tensor):
            logging.warning(
                "%s cannot be cropped to tiles; every tile will see its whole hint.", type(control).__name__
            )
            return None
        height, width = canvas.shape[-2:]
        pixels = control.compression_ratio
        if control.vae is not None:
            pixels *= control.vae.spacial_compression_encode()

        def fit(picture: Tensor) -> Tensor:
            size = pixels * width, pixels * height
            return comfy.utils.common_upscale(picture, *size, control.upscale_algorithm, "center")

        extra = [fit(part) if part.ndim == 4 else part for part in control.extra_concat_orig]
        encoded = None
        if control.vae is not None and type(control).get_control is comfy.controlnet.ControlNet.get_control:
            encoded = _encode(control, canvas, sigma)
        return cls(fit(original), pixels, encoded, extra)

    def give(self, control: Any, jobs: Sequence[Job]) -> None:
        """Make the parts of the hint that belong to tiles that of a copy of the control."""
        control.cond_hint_original = _crop(self.picture, jobs, self.pixels)
        control.extra_concat_orig = [
            _crop(part, jobs, self.pixels) if part.ndim == 4 else part for part in self.extra
        ]
        control.cond_hint = None
        # An adapter's features, computed from the hint once.
        if hasattr(control, "control_input"):
            control.control_input = None
        if self.encoded is not None:
            control.cond_hint = _crop(self.encoded, jobs, 1)


def _crop(hint: Tensor, jobs: Sequence[Job], factor: int) -> Tensor:
    return torch.stack([job.tile.crop(hint[job.image % len(hint)], factor) for job in jobs])


class _Listener:
    """Stands where a control calls its network, when only the hint it would be given is wanted."""

    def __init__(self, network: Any) -> None:
        self.dtype = network.dtype
        self.hint: Tensor | None = None

    def __call__(self, *, hint: Tensor, **_: Any) -> dict[str, Any]:
        self.hint = hint
        return {}


def _encode(control: Any, canvas: Tensor, sigma: Tensor) -> Tensor | None:
    """The hint of the whole canvas as ComfyUI encodes it; once, since a VAE is far slower than a crop."""
    listener = _Listener(control.control_model)
    probe = copy.copy(control)
    probe.control_model, probe.previous_controlnet = listener, None
    probe.cond_hint, probe.timestep_range = None, None
    blank = torch.zeros_like(canvas[:1])
    context = {"c_crossattn": torch.zeros(1, 1, 1, device=canvas.device)}
    probe.get_control(blank, sigma[:1], context, 1, {})
    fits = listener.hint is not None and listener.hint.shape[-2:] == canvas.shape[-2:]
    return listener.hint if fits else None
