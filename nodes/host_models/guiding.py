"""detail and shape_preservation for ComfyUI's models, as in the engine."""

from __future__ import annotations

from typing import Any

import torch
from comfy.cldm.control_types import UNION_CONTROLNET_TYPES
from torch import Tensor

from .noise_levels import signal_share

FLUX_UNION_TILE_MODE = 1
"""Index of the tile task among those of Flux's Union ControlNets (InstantX's FLUX.1-dev-Controlnet-Union)."""

Conditioning = list[Any]


def with_hint(
    positive: Conditioning,
    negative: Conditioning,
    control_net: Any,
    hint: Tensor,
    *,
    strength: float,
    end: float,
    vae: Any,
) -> tuple[Conditioning, Conditioning]:
    """Both conditionings with a ControlNet, after those they have, until a part `end` of the noise schedule.

    `hint` is `[1,3,H,W]` in 0..1. Nothing that is given is changed.
    """
    control = _prepare(control_net).set_cond_hint(hint, strength, (0.0, end), vae=vae)
    chained: dict[int | None, Any] = {}

    def add(conditioning: Conditioning) -> Conditioning:
        changed = []
        for text, more in conditioning:
            before = more.get("control")
            # One copy for both, so that they can be evaluated together.
            if id(before) not in chained:
                chained[id(before)] = control.copy()
                chained[id(before)].set_previous_controlnet(before)
            added = {"control": chained[id(before)], "control_apply_to_uncond": False}
            changed.append([text, {**more, **added}])
        return changed

    return add(positive), add(negative)


def _prepare(control_net: Any) -> Any:
    """A copy, set to its tile task if it is a Union of several and no task was chosen."""
    control = control_net.copy()
    if "control_type" not in control.extra_args:
        network = getattr(control, "control_model", None)
        if getattr(network, "control_add_embedding", None) is not None:
            control.set_extra_arg("control_type", [UNION_CONTROLNET_TYPES["tile"]])
        elif getattr(network, "controlnet_mode_embedder", None) is not None:
            control.set_extra_arg("control_type", [FLUX_UNION_TILE_MODE])
    return control


def percent_after(sampling: Any, sigmas: Tensor, share: float) -> float:
    """What ComfyUI calls the part of a noise schedule that is over after `share` in 0..1 of the steps."""
    n = len(sigmas) - 1
    active = [index for index in range(n) if index / n < share]
    if not active or len(active) == n:
        return 1.0 if active else 0.0
    border = float(sigmas[active[-1]] + sigmas[active[-1] + 1]) / 2
    low, high = 0.0, 1.0
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if float(sampling.percent_to_sigma(middle)) > border else (low, middle)
    return high


class Detail:
    """The canvas's noise, enlarged where the picture has texture while the network is told of less.

    As `pipelines.detail.with_detail`, in the two places that ComfyUI has for it.
    """

    def __init__(self, amounts: list[float], sigmas: Tensor, mask: Tensor, clean: Tensor) -> None:
        self.amounts = amounts
        self.sigmas = sigmas
        self.mask = mask
        """`[1,1,h,w]` in 0..1, with one dimension more for films."""
        self.clean = clean

    def change(self, x: Tensor, sigma: Tensor, model: Any) -> Tensor:
        """The canvas to evaluate, `[1,C,...,h,w]`."""
        passed = int((self.sigmas >= float(sigma[0]) * (1 - 1e-6)).sum()) - 1
        amount = self.amounts[min(max(passed, 0), len(self.amounts) - 1)]
        if amount == 0:
            return x
        signal = signal_share(model.model_sampling, sigma[:1].float())
        return x + amount / (1 - amount) * self.mask.to(x.device) * (x - signal * self.clean.to(x))

    def remember(self, guided: dict[str, Any]) -> Tensor:
        """The last clean estimate; a `sampler_post_cfg_function` that changes nothing."""
        self.clean = guided["denoised"]
        return guided["denoised"]


def of_picture(conditioning: Conditioning, index: int) -> Conditioning:
    """What of a conditioning for several pictures belongs to one, by ComfyUI's rule: again from the start."""

    def pick(value: Any, count: int) -> Any:
        if isinstance(value, Tensor) and value.ndim and len(value) == count > 1:
            return value[index % count][None]
        return value

    picked = []
    for text, more in conditioning:
        count = len(text) if isinstance(text, torch.Tensor) else 1
        picked.append([pick(text, count), {name: pick(value, count) for name, value in more.items()}])
    return picked
