"""Widgets of nodes, from the settings that the engine declares."""

from __future__ import annotations

from ..pipelines.settings import Parameter
from .compat import advanced, io


def make_widget(parameter: Parameter) -> io.WidgetInput:
    """The widget of a declared setting, with its bounds, step, choices and help.

    Texts are taken as they are written: ComfyUI's dynamic prompts would read `{caption}` as a choice.
    """
    shared = {"default": parameter.default, "tooltip": parameter.help, "optional": parameter.advanced}
    bounds = {"min": parameter.minimum, "max": parameter.maximum, "step": parameter.step}
    if parameter.choices:
        widget = io.Combo.Input(parameter.name, options=list(parameter.choices), **shared)
    elif parameter.type is bool:
        widget = io.Boolean.Input(parameter.name, **shared)
    elif parameter.type is float:
        widget = io.Float.Input(parameter.name, **bounds, **shared)
    elif parameter.type is int:
        widget = io.Int.Input(parameter.name, **bounds, **shared)
    else:
        widget = io.String.Input(parameter.name, multiline=parameter.multiline, **shared)
    return advanced(widget) if parameter.advanced else widget
