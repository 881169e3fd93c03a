"""Widgets of nodes, from the settings that the engine declares."""

from __future__ import annotations

from ..pipelines.settings import Parameter
from .compat import advanced, io


def make_widget(parameter: Parameter, *, dynamic_prompts: bool = False) -> io.WidgetInput:
    """The widget of a declared setting, with its bounds, step, choices and help.

    `dynamic_prompts` lets ComfyUI choose among `{a|b}` in texts of several lines.
    """
    shared = {"default": parameter.default, "tooltip": parameter.help, "optional": parameter.advanced}
    bounds = {"min": parameter.minimum, "max": parameter.maximum, "step": parameter.step}
    if parameter.name == "seed":
        shared["default"] = 0
        widget = io.Int.Input("seed", **bounds, **shared, control_after_generate=True)
    elif parameter.choices:
        widget = io.Combo.Input(parameter.name, options=list(parameter.choices), **shared)
    elif parameter.type is bool:
        widget = io.Boolean.Input(parameter.name, **shared)
    elif parameter.type is float:
        widget = io.Float.Input(parameter.name, **bounds, **shared)
    elif parameter.type is int:
        widget = io.Int.Input(parameter.name, **bounds, **shared)
    else:
        dynamic = {"dynamic_prompts": True} if dynamic_prompts and parameter.multiline else {}
        widget = io.String.Input(parameter.name, multiline=parameter.multiline, **shared, **dynamic)
    return advanced(widget) if parameter.advanced else widget
