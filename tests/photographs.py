"""Real photographs for tests."""

from __future__ import annotations

import skimage.data
import torch
from torch import Tensor


def photograph(name: str) -> Tensor:
    """A photograph that scikit-image ships, `[1,3,H,W]` in 0..1: astronaut, chelsea, coffee."""
    return torch.from_numpy(getattr(skimage.data, name)()).permute(2, 0, 1)[None].float() / 255
