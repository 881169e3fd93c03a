"""The device a command computes on."""

from __future__ import annotations

import torch

from ..pipelines.runtime import LocalMemory
from .exit_codes import UsageError


def choose_memory(device: str | None, dtype: str | None = None) -> LocalMemory:
    """Memory on the named device, else on the best there is; `dtype` is that of diffusion networks.

    Raises `UsageError` for a device that is not there.
    """
    diffusion_dtype = getattr(torch, dtype) if dtype else None
    if not device:
        return LocalMemory(diffusion_dtype=diffusion_dtype)
    try:
        chosen = torch.device(device)
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"--device {device} cannot be used: {reason}") from error
    return LocalMemory(device=chosen, diffusion_dtype=diffusion_dtype)
