"""The training schedules of SD1.5 and SDXL models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import ModelFileError
from .architectures import load_config

SMALLEST_SIGNAL = 2.0**-24
"""In place of the zero of a zero-terminal-SNR schedule, whose noise would be infinite (as in diffusers)."""


def make_alphas_cumprod(path: Path, schedule: dict[str, Any]) -> Tensor:
    """`[T]` float64 from diffusers' scheduler settings; those left out are as SD1.5 and SDXL have them.

    Raises ModelFileError, naming `path`, for settings of another kind of schedule.
    """
    settings = {**load_config("sd15", "scheduler"), **schedule}
    if settings["prediction_type"] not in ("epsilon", "v_prediction"):
        raise ModelFileError(path, f"predicts {settings['prediction_type']}, not epsilon or v_prediction")
    start, end, count = settings["beta_start"], settings["beta_end"], settings["num_train_timesteps"]
    if settings.get("trained_betas") is not None:
        raise ModelFileError(path, "has a noise schedule of its own (trained_betas), which is not supported")
    if settings["beta_schedule"] == "scaled_linear":
        betas = torch.linspace(start**0.5, end**0.5, count, dtype=torch.float64) ** 2
    elif settings["beta_schedule"] == "linear":
        betas = torch.linspace(start, end, count, dtype=torch.float64)
    else:
        raise ModelFileError(path, f"has the noise schedule {settings['beta_schedule']}, not scaled_linear")
    alphas_cumprod = (1 - betas).cumprod(0)
    return _end_in_noise(alphas_cumprod) if settings["rescale_betas_zero_snr"] else alphas_cumprod


def _end_in_noise(alphas_cumprod: Tensor) -> Tensor:
    """Zero terminal SNR: Lin et al. 2023, arXiv:2305.08891, algorithm 1."""
    root = alphas_cumprod.sqrt()
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    return (root**2).clamp(min=SMALLEST_SIGNAL)
