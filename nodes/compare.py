"""Before and after of an upscale, as pictures in ComfyUI's temp folder that the page compares."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .compat import ui

KEY = "creative_upscaler_compare"
"""Of a node's output; `web/upscale_panels.js` reads it. ComfyUI itself shows only what is called "images"."""

LARGEST_SIDE = 4096
"""Pixels of a preview's longer side at most: a decoded picture of that size takes a page 64 MB."""
MOST_PICTURES = 16
"""Pictures of a batch that are shown at most."""


def show_compared(before: Tensor, after: Tensor) -> dict[str, list[Any]]:
    """Save the pictures and return what a node hands to `ui`, to be merged with what else it shows.

    `before` `[B,h,w,C]` and `after` `[B,H,W,C]` are ComfyUI's. `before` is stored at its own size, for the
    page enlarges it. Larger previews than `LARGEST_SIDE` are made smaller, so the sizes are told beside.
    """
    shown = min(len(before), len(after), MOST_PICTURES)
    saved = [_save(pictures[:shown]) for pictures in (before, after)]
    facts: dict[str, Any] = {
        name: [p.shape[2], p.shape[1]] for name, p in (("source", before), ("size", after))
    }
    facts["pictures"] = len(after)
    pairs = [{"before": old, "after": new, **facts} for old, new in zip(*saved, strict=True)]
    return {KEY: pairs}


def _save(pictures: Tensor) -> list[dict[str, Any]]:
    from ..pipelines.resizing import resize  # noqa: PLC0415

    channels_first = pictures.movedim(-1, 1).float().cpu()
    if channels_first.shape[1] == 1:
        channels_first = channels_first.repeat(1, 3, 1, 1)
    height, width = channels_first.shape[-2:]
    factor = LARGEST_SIDE / max(height, width)
    if factor < 1:
        channels_first = resize(
            channels_first, (max(1, round(height * factor)), max(1, round(width * factor)))
        )
    return list(ui.PreviewImage(channels_first.movedim(1, -1)).as_dict()["images"])
