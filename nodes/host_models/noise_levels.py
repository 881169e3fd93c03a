"""creativity as a noise level of any of ComfyUI's models, and ComfyUI's schedules beginning there.

A noise level is a ratio of noise to signal: that of Stable Diffusion's schedule at the part `creativity` of
its timesteps. A flow model mixes `sigma` of noise with `1 - sigma` of signal, so sigma .617 is its level at
creativity .5, whatever shift it is used with.
"""

from __future__ import annotations

import math
from typing import Any

import comfy.samplers
import torch
from torch import Tensor

from ...pipelines.schedules import count_steps, scaled_linear_alphas, sigma_of_timestep

TIMESTEPS = 1000
BISECTIONS = 60
"""Halvings of an interval after which it is as narrow as float64 allows."""


def creative_sigmas(
    sampling: Any, creativity: float, steps: int, scheduler: str, sampler_name: str = ""
) -> Tensor:
    """The noise levels of a redraw, `[n+1]` float32, falling from that of `creativity` to exactly 0.

    `sampling` is a model's `model_sampling`; `scheduler` one of ComfyUI's names, applied to what is left of
    the model's range of noise below the start. `steps` are those of a full schedule, of which
    `max(1, floor(steps * creativity))` are run, as in the engine. Samplers that ComfyUI gives one step more,
    and takes the one before the last away from, are given it here too.
    """
    start = sigma_of_creativity(sampling, creativity)
    count = count_steps(steps, creativity)
    discards = sampler_name in comfy.samplers.KSampler.DISCARD_PENULTIMATE_SIGMA_SAMPLERS
    if count == 1:
        # Some schedules are not defined for a single step.
        return torch.tensor([start, 0.0], dtype=torch.float32)
    spread = comfy.samplers.calculate_sigmas(_Below(sampling, start), scheduler, count + discards)
    levels = _pin(spread, start)
    if discards and len(levels) > count + 1:
        del levels[-2]
    while len(levels) > count + 1:
        del levels[1]
    return torch.tensor(levels, dtype=torch.float32)


def cut_sigmas(sampling: Any, sigmas: Tensor, creativity: float) -> Tensor:
    """The part of a schedule `[n+1]` below the noise level of `creativity`, which becomes the first.

    A schedule that starts at less noise is returned as it is.
    """
    start = sigma_of_creativity(sampling, creativity)
    if not len(sigmas) or float(sigmas[0]) <= start:
        return sigmas
    return torch.tensor([start, *(s for s in sigmas.tolist() if s < start * (1 - 1e-4))], dtype=sigmas.dtype)


def sigma_of_creativity(sampling: Any, creativity: float) -> float:
    """A model's sigma at which noise and signal have the ratio that `creativity` in (0, 1] stands for."""
    timestep = min(max(round(TIMESTEPS * creativity), 1), TIMESTEPS - 1)
    wanted = sigma_of_timestep(scaled_linear_alphas(), timestep)
    low, high = float(sampling.sigma_min), float(sampling.sigma_max)
    if noise_ratio(sampling, min(max(wanted, low), high)) == min(max(wanted, low), high):
        return min(max(wanted, low), high)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if noise_ratio(sampling, middle) < wanted else (low, middle)
    return high


def noise_ratio(sampling: Any, sigma: float) -> float:
    """Noise over signal in a canvas at `sigma`."""
    signal = signal_share(sampling, torch.tensor([sigma], dtype=torch.float64))
    noise = _mix(sampling, torch.tensor([sigma], dtype=torch.float64), noise=1.0, signal=0.0)
    return float(noise / signal) if float(signal) > 0 else math.inf


def signal_share(sampling: Any, sigma: Tensor) -> Tensor:
    """How much of the clean picture is in a canvas at `sigma` `[1]`, as a factor: 1, or 1 - sigma in flow."""
    return _mix(sampling, sigma, noise=0.0, signal=1.0)


def _mix(sampling: Any, sigma: Tensor, *, noise: float, signal: float) -> Tensor:
    blank = torch.ones(1, 1, 1, 1, dtype=sigma.dtype, device=sigma.device)
    return sampling.noise_scaling(sigma, noise * blank, signal * blank).flatten()[0]


def _pin(spread: Tensor, start: float) -> list[float]:
    """Strictly falling from `start` to 0."""
    levels = [start]
    for level in spread.tolist():
        if 0 < level < levels[-1] * (1 - 1e-6) and level < start:
            levels.append(level)
    falls_short = len(levels) == len(spread) and len(spread) > 2
    if falls_short:
        # The schedule's own first level lies below the start, which takes its place.
        del levels[1]
    return [*levels, 0.0]


class _Below:
    """A model's noise levels up to `start` only, for ComfyUI's schedules, which spread steps over all."""

    def __init__(self, sampling: Any, start: float) -> None:
        self._sampling, self._start = sampling, start
        table = sampling.sigmas.detach().float().cpu()
        self.sigmas = torch.cat([table[table < start * (1 - 1e-6)], torch.tensor([start])])
        self.sigma_max = torch.tensor(start)
        self.sigma_min = torch.minimum(torch.as_tensor(sampling.sigma_min).float().cpu(), self.sigma_max)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sampling, name)

    def timestep(self, sigma: Tensor) -> Tensor:
        """Of the start, what `sigma` takes back to it: a shifted flow's own two functions are no inverses."""
        if float(sigma) < self._start * (1 - 1e-6):
            return self._sampling.timestep(sigma)
        ends = (self._sampling.sigma_min, self._sampling.sigma_max)
        low, high = sorted(float(self._sampling.timestep(torch.as_tensor(end))) for end in ends)
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            below = float(self._sampling.sigma(torch.tensor(middle))) < self._start
            low, high = (middle, high) if below else (low, middle)
        return torch.tensor(high)
