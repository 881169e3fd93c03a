"""How visible the borders of tiles are in a picture, wherever they were."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

LATENT = 8
"""Pixels along each side of a latent."""


def profiles(image: Tensor) -> list[list[float]]:
    """Mean gradient of a picture `[1,C,H,W]` across every border between two rows and two columns of latents.

    Each is the mean over the pixels of a window of one latent around the border, since a seam between
    latents is that wide once decoded.
    """
    found = []
    for dim in (-2, -1):
        gradient = image.float().diff(dim=dim).abs().mean((0, 1, -3 - dim))
        windows = gradient[LATENT // 2 - 1 :].unfold(0, LATENT, LATENT)
        found.append(windows.mean(-1).tolist())
    return found


def seam_ratio(image: list[list[float]], control: list[list[float]]) -> float:
    """How much steeper than the untiled control's the worst line of a picture is, over the usual line; from
    the `profiles` of both. Random differences of content put it a little above 1.
    """
    worst = []
    for mine, theirs in zip(image, control, strict=True):
        ratios = [a / b for a, b in zip(mine, theirs, strict=True)]
        worst.append(max(ratios) / median(ratios))
    return max(worst)
