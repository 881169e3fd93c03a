from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import EulerDiscreteScheduler

from creative_upscaler.pipelines.parameters import SCHEDULERS
from creative_upscaler.pipelines.schedules import (
    scaled_linear_alphas,
    sigma_of_timestep,
    spread_sigmas,
    timestep_of_sigma,
)

STABLE_DIFFUSION = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
ALPHAS = scaled_linear_alphas()


def euler(**config: object) -> EulerDiscreteScheduler:
    return EulerDiscreteScheduler(**{**STABLE_DIFFUSION, **config})


def zero_terminal_snr() -> torch.Tensor:
    return euler(rescale_betas_zero_snr=True).alphas_cumprod.double()


def test_the_table_is_that_of_stable_diffusion():
    torch.testing.assert_close(ALPHAS, euler().alphas_cumprod.double(), rtol=2e-5, atol=0)
    # The range published with the models.
    assert sigma_of_timestep(ALPHAS, 0) == pytest.approx(0.0292, abs=1e-4)
    assert sigma_of_timestep(ALPHAS, 999) == pytest.approx(14.6146, abs=1e-3)


def test_the_timestep_of_a_sigma_is_that_of_diffusers():
    log_sigmas = ((1 - ALPHAS) / ALPHAS).log().div(2).numpy()
    for sigma in np.geomspace(0.01, 30, 301):
        theirs = euler()._sigma_to_t(sigma, log_sigmas)
        assert timestep_of_sigma(ALPHAS, sigma) == pytest.approx(float(theirs), abs=1e-6)


def test_sigmas_and_timesteps_are_inverse_also_between_whole_timesteps():
    for timestep in np.linspace(0, 999, 313):
        sigma = sigma_of_timestep(ALPHAS, timestep)
        assert timestep_of_sigma(ALPHAS, sigma) == pytest.approx(timestep, abs=1e-6)


@pytest.mark.parametrize("creativity", [0.0004, 0.01, 0.174, 0.35, 0.5, 0.501, 0.77, 1.0])
def test_creativity_alone_sets_the_noise_level_of_the_start(creativity):
    expected = euler().alphas_cumprod[min(max(round(1000 * creativity), 1), 999)].double()
    expected = ((1 - expected) / expected).sqrt().item()
    for scheduler in SCHEDULERS:
        for steps in (1, 4, 20, 57, 200):
            sigmas = spread_sigmas(ALPHAS, creativity, steps, scheduler)
            assert sigmas[0].item() == pytest.approx(expected, rel=2e-5)


@pytest.mark.parametrize(
    ("steps", "creativity", "evaluations"),
    # Products that float arithmetic rounds below the whole number meant, and the counts of other programs.
    [
        (20, 0.35, 7),
        (100, 0.29, 29),
        (100, 0.57, 57),
        (41, 0.174, 7),
        (20, 0.5, 10),
        (18, 0.35, 6),
        (1, 0.01, 1),
        (20, 0.04, 1),
        (200, 1.0, 200),
        (20, 0.999, 19),
    ],
)
def test_the_share_of_the_steps_that_creativity_needs_is_run(steps, creativity, evaluations):
    for scheduler in SCHEDULERS:
        assert len(spread_sigmas(ALPHAS, creativity, steps, scheduler)) == evaluations + 1


@pytest.mark.parametrize(
    "alphas", [ALPHAS, zero_terminal_snr(), ALPHAS[::100], ALPHAS[[0, 999]], ALPHAS.float()]
)
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_sigmas_fall_to_exactly_zero_for_tables_of_any_length(alphas, scheduler):
    for creativity in (0.01, 0.3, 1.0):
        for steps in (1, 3, 20, 150):
            sigmas = spread_sigmas(alphas, creativity, steps, scheduler)
            assert sigmas.dtype == torch.float64
            assert sigmas.isfinite().all()
            assert (sigmas.diff() < 0).all()
            assert sigmas[-1] == 0


def test_zero_terminal_snr_starts_at_4096_and_has_timesteps():
    alphas = zero_terminal_snr()
    assert spread_sigmas(alphas, 1, 20, "karras")[0].item() == pytest.approx(4096, rel=1e-6)
    assert timestep_of_sigma(alphas, 4096.0) == pytest.approx(999)
    assert timestep_of_sigma(alphas, 1e6) == 999


def test_normal_sigmas_are_at_equally_spaced_timesteps():
    sigmas = spread_sigmas(ALPHAS, 0.5, 20, "normal")
    timesteps = [timestep_of_sigma(ALPHAS, sigma) for sigma in sigmas[:-1].tolist()]
    assert timesteps == pytest.approx([500, 450, 400, 350, 300, 250, 200, 150, 100, 50])


def test_karras_sigmas_are_those_of_diffusers():
    scheduler = euler(use_karras_sigmas=True)
    scheduler.set_timesteps(20)
    sigmas = spread_sigmas(scheduler.alphas_cumprod, 1.0, 20, "karras")
    torch.testing.assert_close(sigmas.float(), scheduler.sigmas, rtol=1e-5, atol=0)


def test_an_unknown_scheduler_is_named():
    with pytest.raises(ValueError, match="exponential"):
        spread_sigmas(ALPHAS, 0.5, 20, "exponential")
