"""Models from files: what a creative upscale needs, checked before it is used, and never from a network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .base import CreativeModels, TextEncoder, load_models

__all__ = ["CreativeModels", "TextEncoder", "load_models"]


def __getattr__(name: str) -> Any:
    """Networks are imported when they are asked for: reading what a file holds does without diffusers."""
    if name in __all__:
        from . import base  # noqa: PLC0415

        return getattr(base, name)
    raise AttributeError(f"module {__name__} has no attribute {name}")
