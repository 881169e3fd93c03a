"""The truncated chains of CCSR, as plain numbers, and the one loop that runs them.

Both versions look at full noise once ("information extraction"), noise that estimate to a middle level, walk
some ancestral steps from there, and leave the rest to the VAE's decoder (Sun et al. 2023, section 3.3). What
they walk with is any callable that predicts the clean latents.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from torch import Tensor

from ..errors import ParameterError

Predict = Callable[[Tensor, int, int], Tensor]
"""`(x, timestep, evaluation)` to the clean estimate; `x` `[B,C,h,w]` is sqrt(a) clean + sqrt(1 - a) noise."""

DrawKind = Literal["posterior", "start", "renoise", "step"]
Draw = Callable[[DrawKind, Tensor], Tensor]
"""Standard normal noise like a tensor, and what for: that of the VAE's posterior, the start, and so on."""

LAST = -1
"""The timestep of most noise, where the chain begins."""


@dataclass(frozen=True)
class Step:
    """One ancestral step from signal share `alpha` at `timestep` to share `alpha_after`."""

    timestep: int
    alpha: float
    alpha_after: float

    def advance(self, x: Tensor, clean: Tensor, draw: Callable[[], Tensor]) -> Tensor:
        """A sample of q(x_after | x, clean): Ho et al. 2020, equations 6 and 7, at any two levels."""
        beta = 1 - self.alpha / self.alpha_after
        rest, rest_after = 1 - self.alpha, 1 - self.alpha_after
        mean = clean * (beta * math.sqrt(self.alpha_after) / rest) + x * (
            rest_after * math.sqrt(1 - beta) / rest
        )
        return mean + draw() * math.sqrt(beta * rest_after / rest)


@dataclass(frozen=True)
class Chain:
    """What is evaluated, in this order: `extraction`, then `steps`."""

    start: Literal["noise", "picture"]
    """Pure noise (version 1), or the picture's latents noised to the last level (version 2)."""
    extraction: int | None
    """Its timestep."""
    start_alpha: float
    """Signal share that the start is noised to; without effect for pure noise."""
    renoise_alpha: float
    """Signal share to which the extracted estimate is noised."""
    steps: tuple[Step, ...]

    @property
    def evaluations(self) -> int:
        return len(self.steps) + (self.extraction is not None)


def make_chain_v1(alphas: Tensor, steps: int, t_max: float, t_min: float, *, official: bool = False) -> Chain:
    """Version 1: `steps` timesteps spread over `alphas` `[T]`; those from t_max down to t_min are run.

    `official` noises the extracted estimate to the level the official program does, which for every third
    number of steps is not that of the first step. Raises `ParameterError` where no step is left.
    """
    if steps < 2:
        raise ParameterError("steps", f"got {steps}; CCSR v1 needs at least 2")
    first, last = _bounds(steps, t_max, t_min)
    # Guided diffusion's `space_timesteps`: partial sums, each rounded.
    stride, place, timesteps = (len(alphas) - 1) / (steps - 1), 0.0, []
    for _ in range(steps):
        timesteps.append(round(place))
        place += stride
    shares = [1.0, *(float(alphas[timestep]) for timestep in timesteps)]
    chosen = tuple(Step(timesteps[i], shares[i + 1], shares[i]) for i in range(first - 1, last - 1, -1))
    level = round(float(np.float32(steps - 1) * np.float32(t_max))) if official else first - 1
    return Chain("noise", timesteps[-1], shares[-1], shares[level + 1], chosen)


def make_chain_v2(alphas: Tensor, steps: int, t_max: float, t_min: float, *, official: bool = False) -> Chain:
    """Version 2: diffusers' "leading" timesteps, of which those from t_max down to t_min are run.

    One step is the extraction alone. `official` leaves the extraction out at t_max 1, and takes the first
    step at a lower noise level than the canvas then has. Raises `ParameterError` where no step is left.
    """
    count = len(alphas)
    stride, end = count // steps, float(alphas[LAST])
    first, last = _bounds(steps, t_max, t_min)
    if steps == 1:
        return Chain("picture", count - 1, end, end, ())
    timesteps = [i * stride + 1 for i in range(steps)]

    def share(timestep: int) -> float:
        return float(alphas[timestep]) if timestep >= 0 else 1.0

    chosen = tuple(
        Step(timesteps[i], share(timesteps[i]), share(timesteps[i] - stride))
        for i in range(first - 1, last - 1, -1)
    )
    extraction = None if official and t_max == 1 else count - 1
    return Chain("picture", extraction, end, chosen[0].alpha, chosen)


def _bounds(steps: int, t_max: float, t_min: float) -> tuple[int, int]:
    """The first step to run, counted from 1 at the clean end, and the number of those left out there."""
    first, last = round(steps * t_max), round(steps * t_min)
    if first <= last:
        raise ParameterError(
            "steps",
            f"of {steps} none lies between t_max {t_max:g} and t_min {t_min:g}; "
            "take more steps, or move t_max and t_min apart",
        )
    return first, last


def sample(chain: Chain, predict: Predict, draw: Draw, latents: Tensor) -> Tensor:
    """Run the chain; the clean latents as the last evaluation predicts them, like `latents` `[B,C,h,w]`.

    `latents` are the picture's; where the chain starts from pure noise only their shape and device matter.
    """
    x = draw("start", latents)
    if chain.start == "picture":
        x = latents * math.sqrt(chain.start_alpha) + x * math.sqrt(1 - chain.start_alpha)
    clean, done = x, 0
    if chain.extraction is not None:
        clean, done = predict(x, chain.extraction, 0), 1
        if chain.steps:
            noise = draw("renoise", clean)
            x = clean * math.sqrt(chain.renoise_alpha) + noise * math.sqrt(1 - chain.renoise_alpha)
    for number, step in enumerate(chain.steps):
        clean = predict(x, step.timestep, done + number)
        if number < len(chain.steps) - 1:
            x = step.advance(x, clean, lambda like=clean: draw("step", like))  # type: ignore[misc]
    return clean
