"""Noise levels: between timesteps and sigmas, and spread over the steps of a redraw.

Sigma is the noise level in the variance-exploding scale, `x = x0 + sigma * noise`; with the cumulative alphas
of a model it is `sqrt((1 - alpha) / alpha)`. Everything here is a function of numbers, computed in float64.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

KARRAS_RHO = 7.0
"""Curvature of the Karras spacing: Karras et al. 2022, https://arxiv.org/abs/2206.00364, below equation 5."""


def spread_sigmas(alphas_cumprod: Tensor, creativity: float, steps: int, scheduler: str) -> Tensor:
    """The noise levels of a redraw, `[n+1]` float64, falling from that of `creativity` to exactly 0.

    `creativity` in (0, 1] is a noise level, not a share of a schedule: the start is the sigma at that part of
    the model's timesteps for every scheduler and step count. `steps` are those of a full schedule, of which
    `n = max(1, floor(steps * creativity))` are run, as image-to-image pipelines count.
    `scheduler` "normal" spaces the timesteps equally, "karras" sigma to the power of 1/7 (Karras et al. 2022,
    equation 5) down to the model's lowest sigma.
    """
    timesteps = len(alphas_cumprod)
    start = min(max(round(timesteps * creativity), 1), timesteps - 1)
    n = count_steps(steps, creativity)
    if scheduler == "normal":
        sigmas = [sigma_of_timestep(alphas_cumprod, start * (n - i) / n) for i in range(n)]
    elif scheduler == "karras":
        first = sigma_of_timestep(alphas_cumprod, start) ** (1 / KARRAS_RHO)
        last = sigma_of_timestep(alphas_cumprod, 0) ** (1 / KARRAS_RHO)
        sigmas = [(first + (last - first) * i / max(1, n - 1)) ** KARRAS_RHO for i in range(n)]
    else:
        raise ValueError(f"got scheduler {scheduler!r}; allowed are normal and karras")
    return torch.tensor([*sigmas, 0.0], dtype=torch.float64)


def count_steps(steps: int, creativity: float) -> int:
    """How many of a full schedule's `steps` a redraw of this creativity runs; at least one."""
    # Products such as 100 * 0.29 fall short of the whole number they mean.
    return max(1, math.floor(steps * creativity + 1e-6))


def sigma_of_timestep(alphas_cumprod: Tensor, timestep: float) -> float:
    """Sigma at a timestep in 0..T-1, whole or not; `alphas_cumprod` `[T]` lie in (0, 1) and fall.

    Between whole timesteps the logarithm is linear (k-diffusion's `DiscreteSchedule.t_to_sigma`); beyond the
    table its ends hold.
    """
    log_sigmas = _log_sigmas(alphas_cumprod)
    return float(np.exp(np.interp(timestep, np.arange(len(log_sigmas)), log_sigmas)))


def timestep_of_sigma(alphas_cumprod: Tensor, sigma: float) -> float:
    """The timestep, usually between two whole ones, of a noise level above 0.

    Inverse of `sigma_of_timestep`; equal to `_sigma_to_t` of diffusers' `EulerDiscreteScheduler`.
    """
    log_sigmas = _log_sigmas(alphas_cumprod)
    return float(np.interp(math.log(sigma), log_sigmas, np.arange(len(log_sigmas))))


def scaled_linear_alphas() -> Tensor:
    """Cumulative alphas `[1000]` float64 of Stable Diffusion 1, 2 and XL ("scaled linear" betas)."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, dim=0)


def _log_sigmas(alphas_cumprod: Tensor) -> np.ndarray:
    alphas = alphas_cumprod.double()
    return ((1 - alphas) / alphas).log().div(2).numpy()
