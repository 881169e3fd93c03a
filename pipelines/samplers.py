"""Solvers of the denoising process, one function each, all with one signature.

They work in the variance-exploding scale, `x = x0 + sigma * noise`, evaluate the network once for each step
and return its estimate of x0 at the step to sigma 0. Names mean what they mean in k-diffusion and ComfyUI;
diffusers' solvers agree, except that the last coefficient of its third-order SDE update has the wrong sign.
Fresh noise comes from a callback, not from a Brownian tree: another number of steps sees other noise.

All are one move: the noise in `x` is shrunk around an estimate of x0 to `sigma_down`, then fresh noise brings
it back up to `sigma_next`. Solvers differ in how far down they go and in how they extrapolate the estimate.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from .schedules import scaled_linear_alphas, sigma_of_timestep, timestep_of_sigma

Noise = Callable[[], Tensor]
"""Draws standard normal noise of the shape, type and device of the canvas; other noise at each call."""

TCD_GAMMA = 0.3
"""Part of the timesteps below the next one that TCD goes down before it adds noise: its authors' default."""


Denoise = Callable[[Tensor, float, int], Tensor]
"""The network's estimate of x0 for a canvas `x` at noise level `sigma`, in step `index` (from 0)."""


def sample(name: str, denoise: Denoise, x: Tensor, sigmas: Tensor, noise: Noise) -> Tensor:
    """Run the sampler called `name` (one of `parameters.SAMPLERS`) from `sigmas[0]` to `sigmas[-1]`.

    `x` is the canvas `[B,C,h,w]` with noise level `sigmas[0]` and is left as it is; `sigmas` `[n+1]` fall,
    and only the last may be 0. There are exactly `n` evaluations.
    """
    return _SAMPLERS[name](denoise, x, sigmas, noise)


def euler(denoise: Denoise, x: Tensor, sigmas: Tensor, noise: Noise) -> Tensor:
    """Euler's method on the probability flow: Karras et al. 2022, https://arxiv.org/abs/2206.00364, eq. 4."""
    for index, sigma, sigma_next in _steps(sigmas):
        x = _move(x, denoise(x, sigma, index), sigma, sigma_next)
    return x


def ddim(denoise: Denoise, x: Tensor, sigmas: Tensor, noise: Noise) -> Tensor:
    """Song et al. 2020, https://arxiv.org/abs/2010.02502, equation 12 without noise, ending at alpha 1.

    In this scale it is Euler's method; the two names differ in the schedules they are known with.
    """
    return euler(denoise, x, sigmas, noise)


def euler_ancestral(denoise: Denoise, x: Tensor, sigmas: Tensor, noise: Noise) -> Tensor:
    """Ancestral sampling of k-diffusion: Ho et al. 2020, https://arxiv.org/abs/2006.11239, equation 7."""
    for index, sigma, sigma_next in _steps(sigmas):
        x = _move(x, denoise(x, sigma, index), sigma, sigma_next, sigma_next**2 / sigma, noise)
    return x


def lcm(denoise: Denoise, x: Tensor, sigmas: Tensor, noise: Noise) -> Tensor:
    """Multistep consistency sampling: Luo et al. 2023, https://arxiv.org/abs/2310.04378, algorithm 3.

    The boundary scaling of its training (c_skip, c_out) is left out, as in ComfyUI: it matters 1e-5 at
    timestep 16 and less above.
    """
    for index, sigma, sigma_next in _steps(sigmas):
        x = _move(x, denoise(x, sigma, index), sigma, sigma_next, 0.0, noise)
    return x


def tcd(denoise: Denoise, x: Tensor, sigmas: Tensor, noise: Noise) -> Tensor:
    """Trajectory consistency sampling: Zheng et al. 2024, https://arxiv.org/abs/2402.19159, algorithm 4.

    Goes down to timestep `(1 - TCD_GAMMA) * t_next` of the table that its LoRAs were distilled with. The last
    step goes to x0 itself, where the authors' program stops at timestep 0.
    """
    alphas = scaled_linear_alphas()
    for index, sigma, sigma_next in _steps(sigmas):
        timestep = timestep_of_sigma(alphas, sigma_next) if sigma_next > 0 else 0.0
        down = sigma_of_timestep(alphas, (1 - TCD_GAMMA) * timestep)
        x = _move(x, denoise(x, sigma, index), sigma, sigma_next, min(down, sigma_next), noise)
    return x


def dpmpp_2m(denoise: Denoise, x: Tensor, sigmas: Tensor, noise: Noise) -> Tensor:
    """DPM-Solver++(2M): Lu et al. 2022, https://arxiv.org/abs/2211.01095, algorithm 2."""
    return dpmpp_2m_sde(denoise, x, sigmas, noise, eta=0.0)


def dpmpp_2m_sde(denoise: Denoise, x: Tensor, sigmas: Tensor, noise: Noise, eta: float = 1.0) -> Tensor:
    """SDE-DPM-Solver++(2M), midpoint form: Lu et al. 2022, https://arxiv.org/abs/2211.01095, section 5.

    `eta` scales the fresh noise; without it this is DPM-Solver++(2M).
    """
    past, h_past = None, 0.0
    for index, sigma, sigma_next in _steps(sigmas):
        denoised = estimate = denoise(x, sigma, index)
        h = _log_ratio(sigma, sigma_next)
        if past is not None and sigma_next > 0:
            estimate = torch.lerp(past, denoised, 1 + h / (2 * h_past))
        x = _move(x, estimate, sigma, sigma_next, sigma_next * (sigma_next / sigma) ** eta, noise)
        past, h_past = denoised, h
    return x


def dpmpp_3m_sde(denoise: Denoise, x: Tensor, sigmas: Tensor, noise: Noise, eta: float = 1.0) -> Tensor:
    """DPM-Solver++(3M) SDE of k-diffusion: the third-order form of the paper named at `dpmpp_2m_sde`.

    `eta` scales the fresh noise. Formally of second order, because the published last term has half the
    weight that third order needs, but several times as exact as 2M.
    """
    past: list[tuple[Tensor, float]] = []
    for index, sigma, sigma_next in _steps(sigmas):
        denoised = denoise(x, sigma, index)
        h = _log_ratio(sigma, sigma_next)
        estimate = denoised
        if past and sigma_next > 0:
            estimate = _extrapolate(denoised, past, h, eta)
        x = _move(x, estimate, sigma, sigma_next, sigma_next * (sigma_next / sigma) ** eta, noise)
        past = [(denoised, h), *past[:1]]
    return x


def _extrapolate(denoised: Tensor, past: list[tuple[Tensor, float]], h: float, eta: float) -> Tensor:
    """The constant estimate that moves as the polynomial through this and up to two earlier ones does.

    `past` holds the earlier estimates, newest first, each with the length of the step that followed it.
    """
    span = h * (1 + eta)
    phi_1 = -math.expm1(-span)
    phi_2 = 1 - phi_1 / span
    phi_3 = phi_2 / span - 0.5
    first, h_first = past[0]
    r_0 = h_first / h
    if len(past) == 1:
        return torch.lerp(first, denoised, 1 + phi_2 / (phi_1 * r_0))
    second, h_second = past[1]
    r_1 = h_second / h
    slope, older_slope = (denoised - first) / r_0, (first - second) / r_1
    bend = (slope - older_slope) / (r_0 + r_1)
    return denoised + (phi_2 / phi_1) * (slope + r_0 * bend) - (phi_3 / phi_1) * bend


def uni_pc(denoise: Denoise, x: Tensor, sigmas: Tensor, noise: Noise) -> Tensor:
    """UniPC of order 2 (bh2, x0): Zhao et al. 2023, https://arxiv.org/abs/2302.04867, algorithms 1 and 2.

    Each evaluation first corrects the step that led to it, then predicts the next one; the steps at both ends
    are of first order.
    """
    past: list[tuple[Tensor, float]] = []
    x_past, sigma_past = x, math.inf
    for index, sigma, sigma_next in _steps(sigmas):
        denoised = estimate = denoise(x, sigma, index)
        if past:
            x = _move(x_past, _correct(denoised, past), sigma_past, sigma)
        h = _log_ratio(sigma, sigma_next)
        if past and sigma_next > 0:
            before, h_before = past[0]
            estimate = torch.lerp(before, denoised, 1 + h / (2 * h_before))
        x_past, sigma_past = x, sigma
        x = _move(x, estimate, sigma, sigma_next)
        past = [(denoised, h), *past[:1]]
    return x


def _correct(denoised: Tensor, past: list[tuple[Tensor, float]]) -> Tensor:
    """UniC's estimate for the last step, which began at `past[0]` and at whose end `denoised` was seen."""
    start, h = past[0]
    if len(past) == 1:
        return torch.lerp(start, denoised, 0.5)
    before, h_before = past[1]
    r = -h_before / h
    b = -math.expm1(-h)
    phi_2 = 1 - b / h
    phi_3 = phi_2 / h - 0.5
    # The two weights that make the correction exact for estimates quadratic in log sigma: rows of R rho = b.
    first, second = phi_2 / b, -2 * phi_3 / b
    weight_before = (first - second) / (1 - r)
    return start + (before - start) * (weight_before / r) + (denoised - start) * (first - weight_before)


def _move(
    x: Tensor,
    estimate: Tensor,
    sigma: float,
    sigma_next: float,
    sigma_down: float | None = None,
    noise: Noise | None = None,
) -> Tensor:
    """Shrink the noise of `x` around `estimate` from `sigma` to `sigma_down`, then add up to `sigma_next`."""
    down = sigma_next if sigma_down is None else sigma_down
    moved = torch.lerp(estimate, x, down / sigma)
    if noise is not None and down < sigma_next:
        moved.add_(noise(), alpha=math.sqrt(sigma_next**2 - down**2))
    return moved


def _steps(sigmas: Tensor) -> Iterator[tuple[int, float, float]]:
    levels = sigmas.tolist()
    return zip(range(len(levels) - 1), levels, levels[1:], strict=False)


def _log_ratio(sigma: float, sigma_next: float) -> float:
    """Length of a step in the solvers' time, half the logarithm of the signal-to-noise ratio."""
    return math.log(sigma / sigma_next) if sigma_next > 0 else math.inf


_SAMPLERS: dict[str, Callable[[Denoise, Tensor, Tensor, Noise], Tensor]] = {
    solver.__name__: solver
    for solver in (
        euler,
        euler_ancestral,
        dpmpp_2m,
        dpmpp_2m_sde,
        dpmpp_3m_sde,
        uni_pc,
        lcm,
        ddim,
        tcd,
    )
}
