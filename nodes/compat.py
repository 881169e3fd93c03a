"""The parts of ComfyUI's node API this pack uses, as they are called in every version from 0.3.64 on."""

from __future__ import annotations

from typing import TypeVar

from comfy_api.latest import ComfyExtension, io, ui

__all__ = ["ComfyExtension", "advanced", "io", "ui"]

WidgetInput = TypeVar("WidgetInput", bound=io.Input)


def advanced(widget: WidgetInput) -> WidgetInput:
    """Mark an input as rarely used.

    `advanced=` is an argument only since 0.10.0, and `extra_dict=` none in 0.3.64, but every version sends
    what this attribute holds to the browser.
    """
    widget.extra_dict = {**widget.extra_dict, "advanced": True}
    return widget
