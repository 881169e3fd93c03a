"""Creative Upscaler: what ComfyUI loads, and the package `creative_upscaler` after `pip install`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .nodes import CreativeUpscalerExtension

WEB_DIRECTORY = "./web"


async def comfy_entrypoint() -> CreativeUpscalerExtension:
    """The extension ComfyUI asks for; imported here so that the package also works without a host."""
    from .nodes import CreativeUpscalerExtension  # noqa: PLC0415

    return CreativeUpscalerExtension()
