"""What the user's settings allow on this computer, whatever a workflow says."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from torch import Tensor

from . import remote_host

if TYPE_CHECKING:
    from ..pipelines.resizing import Sizing


def check_local_size(image: Tensor, parameters: Sizing) -> None:
    """Raise `SizeLimitError` if the result for ComfyUI's `[B,H,W,C]` is larger than the user allows here.

    Unlike the size guard of the engine, a workflow's `override_size_limits` does not lift this.
    """
    check_local_target((image.shape[1], image.shape[2]), parameters)


def check_local_target(source: tuple[int, int], parameters: Sizing) -> None:
    """`check_local_size` for a picture of `source` (height, width) in pixels."""
    from ..pipelines.errors import SizeLimitError  # noqa: PLC0415
    from ..pipelines.remote.settings import load_settings  # noqa: PLC0415
    from ..pipelines.resizing import target_size  # noqa: PLC0415

    limit = load_settings(remote_host.private_folder()).max_local_megapixels
    height, width = target_size(*source, parameters)
    if limit and height * width > limit * 1e6:
        size = math.ceil(height * width / 1e4) / 100
        raise SizeLimitError(
            f"the result would be {width} x {height} px ({size:g} megapixels); your settings allow {limit:g} "
            "on this computer; lower scale, width or height, or raise the limit in ComfyUI's settings "
            "(Creative Upscaler, Largest local result)"
        )
