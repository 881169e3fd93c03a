"""The node that enlarges and redraws a picture."""

from __future__ import annotations

import logging
from typing import Any

from torch import Tensor

from ..pipelines.parameters import Parameter, UpscaleParameters
from ..pipelines.starter import UPSCALER, name_model
from . import host
from .compat import advanced, io
from .sockets import HostModels, Models

ELSEWHERE = ("model_type", "enable_safety_checks", "skip_ccsr")
"""Settings without a widget here.

The loaded models say their family, and this version has neither a safety checker nor CCSR.
"""


def shown_parameters() -> list[Parameter]:
    """The declared settings that the node has widgets for: the usual ones, then the advanced ones."""
    shown = [p for p in UpscaleParameters.declared() if not p.model_source and p.name not in ELSEWHERE]
    return sorted(shown, key=lambda parameter: parameter.advanced)


class CreativeUpscale(io.ComfyNode):
    """`pipelines.creative.upscale` with ComfyUI's pictures, models, memory and progress."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        usual = [p for p in shown_parameters() if not p.advanced]
        rare = [p for p in shown_parameters() if p.advanced]
        return io.Schema(
            node_id="CreativeUpscaler_Upscale",
            display_name="Creative Upscale",
            category="image/upscaling/creative",
            description="Enlarges a picture and redraws it in tiles with Stable Diffusion, adding detail.",
            inputs=[
                io.Image.Input("image", tooltip="The picture, or a batch of them; transparency is kept."),
                Models.Input("models", tooltip="From Load Creative Upscale Models."),
                *[_widget(parameter) for parameter in usual],
                io.UpscaleModel.Input(
                    "upscale_model",
                    optional=True,
                    tooltip="Enlarges the picture before it is redrawn. Without one, the loader's "
                    "pre_upscaler does.",
                ),
                *[_widget(parameter) for parameter in rare],
            ],
            outputs=[
                io.Image.Output(
                    "upscaled", display_name="image", tooltip="The result, in exactly the asked size."
                ),
                io.Int.Output("used_seed", display_name="seed", tooltip="The seed it was made with."),
                io.String.Output(
                    "used_prompt", display_name="prompt", tooltip="The prompt as used, suffix included."
                ),
            ],
        )

    @classmethod
    def execute(
        cls, image: Tensor, models: HostModels, upscale_model: Any = None, **settings: Any
    ) -> io.NodeOutput:
        from ..pipelines.creative import upscale  # noqa: PLC0415  diffusers takes seconds to import
        from ..pipelines.runtime import Runtime  # noqa: PLC0415

        model_type = models.models.model_type
        parameters = UpscaleParameters(**settings, model_type=model_type).with_preset()
        # A widget that was not touched cannot be told from one that was set to its default.
        given = {p.name for p in shown_parameters() if getattr(parameters, p.name) != p.default}
        used = []
        if upscale_model is None and models.upscaler is not None and parameters.creativity > 0:
            upscale_model = models.upscaler
            used.append(name_model(UPSCALER))
        parameters, notes = models.limits.fit(parameters, given)
        logging.info("Creative Upscale: results are not safety checked; this version has no safety checker.")
        colors = host.preview_colors(models.models.vae, models.memory)
        progress = host.HostProgress(models.memory.device, model_type, colors)
        runtime = Runtime(models.memory, progress)
        with host.visitors_dismissed(models.memory):
            result = upscale(
                image.movedim(-1, 1), parameters, models.models, upscaler=upscale_model, runtime=runtime
            )
        picture = result.image.movedim(1, -1).to(host.picture_device())
        prompts = dict.fromkeys(result.prompts)
        used = [*used, *(name for role, name in result.models.items() if role != "loras")]
        text = "\n".join([*notes, *([f"Made with {', '.join(used)}."] if used else [])])
        host.show_text(text)
        return io.NodeOutput(picture, result.seed, "\n".join(prompts), ui={"text": [text]})


def _widget(parameter: Parameter) -> io.WidgetInput:
    """The widget of a declared setting, with its bounds, step, choices and help."""
    shared = {"default": parameter.default, "tooltip": parameter.help, "optional": parameter.advanced}
    bounds = {"min": parameter.minimum, "max": parameter.maximum, "step": parameter.step}
    if parameter.choices:
        widget = io.Combo.Input(parameter.name, options=list(parameter.choices), **shared)
    elif parameter.type is bool:
        widget = io.Boolean.Input(parameter.name, **shared)
    elif parameter.type is float:
        widget = io.Float.Input(parameter.name, **bounds, **shared)
    elif parameter.name == "seed":
        widget = io.Int.Input("seed", **bounds, **{**shared, "default": 0}, control_after_generate=True)
    elif parameter.type is int:
        widget = io.Int.Input(parameter.name, **bounds, **shared)
    else:
        widget = io.String.Input(
            parameter.name, multiline=parameter.multiline, dynamic_prompts=parameter.multiline, **shared
        )
    return advanced(widget) if parameter.advanced else widget
