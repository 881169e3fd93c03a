"""The nodes that enlarge and redraw a picture with models that ComfyUI has loaded."""

from __future__ import annotations

import logging
from typing import Any

import comfy.samplers
from torch import Tensor

from ..pipelines.errors import ParameterError
from ..pipelines.parameters import UpscaleParameters
from . import host
from .compare import show_compared
from .compat import io
from .user_limits import check_local_size
from .widgets import make_widget

SETTINGS = (
    *("scale", "creativity", "detail", "shape_preservation", "seed", "guidance_scale", "num_inference_steps"),
    *("width", "height", "color_fix", "shape_end", "tile_size", "tile_overlap", "tile_batch"),
    "override_size_limits",
)
"""What the engine's settings can say to any model; prompts, samplers and files come by other ways."""

SCHEDULED = ("num_inference_steps",)
"""Settings without a widget where SIGMAS say it."""

SAMPLER, SCHEDULER = "dpmpp_2m", "karras"


class UpscaleHostModel(io.ComfyNode):
    """`host_models.upscaling.creative_upscale` with the names of ComfyUI's samplers and schedulers."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        samplers = [
            io.Combo.Input(
                "sampler_name",
                options=comfy.samplers.KSampler.SAMPLERS,
                default=SAMPLER,
                tooltip="Solver of the denoising process. For flow models euler is the usual one.",
            ),
            io.Combo.Input(
                "scheduler",
                options=comfy.samplers.KSampler.SCHEDULERS,
                default=SCHEDULER,
                tooltip="How the steps are spread from the starting noise to none. The start is the same for "
                "all: that of creativity. For flow models simple is the usual one.",
            ),
        ]
        return _schema(
            "CreativeUpscaler_UpscaleHostModel",
            "Creative Upscale (ComfyUI model)",
            "Enlarges a picture and redraws it in tiles with any model that ComfyUI has loaded.",
            _widgets(SETTINGS, samplers),
        )

    @classmethod
    def execute(cls, sampler_name: str, scheduler: str, **inputs: Any) -> io.NodeOutput:
        _check("sampler_name", sampler_name, comfy.samplers.KSampler.SAMPLERS)
        _check("scheduler", scheduler, comfy.samplers.KSampler.SCHEDULERS)
        return _upscale(inputs, sampler=sampler_name, schedule=scheduler)


class UpscaleHostModelAdvanced(io.ComfyNode):
    """The same with a SAMPLER and SIGMAS of the user's own."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        sockets = [
            io.Sampler.Input("sampler", tooltip="From KSamplerSelect or any node of its kind."),
            io.Sigmas.Input(
                "sigmas",
                tooltip="A schedule from full noise to none. The part below the noise level of creativity is "
                "run, beginning there.",
            ),
        ]
        return _schema(
            "CreativeUpscaler_UpscaleHostModelAdvanced",
            "Creative Upscale (ComfyUI model, advanced)",
            "As Creative Upscale (ComfyUI model), with a sampler and a schedule from sockets.",
            [*sockets, *_widgets([name for name in SETTINGS if name not in SCHEDULED], [])],
        )

    @classmethod
    def execute(cls, sampler: Any, sigmas: Tensor, **inputs: Any) -> io.NodeOutput:
        return _upscale(inputs, sampler=sampler, schedule=sigmas)


def _schema(node_id: str, name: str, description: str, further: list[Any]) -> io.Schema:
    return io.Schema(
        node_id=node_id,
        display_name=name,
        category="image/upscaling/creative",
        description=description,
        inputs=[
            io.Image.Input("image", tooltip="The picture, or a batch of them; transparency is kept."),
            io.Model.Input("model", tooltip="Any model that draws pictures, with its LoRAs and patches."),
            io.Conditioning.Input("positive", tooltip="What the picture shows."),
            io.Conditioning.Input(
                "negative", tooltip="What it must not look like. Without effect at guidance_scale 1."
            ),
            io.Vae.Input("vae", tooltip="The model's own."),
            *further,
            io.ControlNet.Input(
                "control_net",
                optional=True,
                tooltip="A tile or union ControlNet of the model's family, for shape_preservation. Its hint "
                "is the picture.",
            ),
            io.UpscaleModel.Input(
                "upscale_model", optional=True, tooltip="Enlarges the picture before it is redrawn."
            ),
        ],
        outputs=[
            io.Image.Output(
                "upscaled", display_name="image", tooltip="The result, in exactly the asked size."
            ),
            io.Int.Output("used_seed", display_name="seed", tooltip="The seed it was made with."),
        ],
    )


def _widgets(names: Any, samplers: list[Any]) -> list[Any]:
    """The usual ones, those of `samplers`, then the advanced."""
    declared = [p for p in UpscaleParameters.declared() if p.name in names]
    usual = [make_widget(p) for p in declared if not p.advanced]
    return [*usual, *samplers, *[make_widget(p) for p in declared if p.advanced]]


def _check(name: str, value: str, allowed: list[str]) -> None:
    """ComfyUI 0.3.64 lets any text through."""
    if value not in allowed:
        raise ParameterError(name, f"got {value!r}; allowed is one of {', '.join(allowed)}")


def _upscale(inputs: dict[str, Any], *, sampler: Any, schedule: Any) -> io.NodeOutput:
    from ..pipelines.runtime import Runtime  # noqa: PLC0415
    from .host_models.upscaling import creative_upscale  # noqa: PLC0415  spandrel takes a second to import

    settings = {name: inputs.pop(name) for name in SETTINGS if name in inputs}
    parameters = UpscaleParameters(**settings)
    image, model = inputs.pop("image"), inputs["model"]
    check_local_size(image, parameters)
    memory = host.HostMemory()
    progress = host.HostProgress(memory.device, latent_format=model.get_model_object("latent_format"))
    with host.visitors_dismissed(memory):
        result = creative_upscale(
            image.movedim(-1, 1),
            parameters,
            **inputs,
            sampler=sampler,
            schedule=schedule,
            runtime=Runtime(memory, progress),
        )
    for note in result.notes:
        logging.warning("Creative Upscale: %s", note)
    picture = result.image.movedim(1, -1).to(host.picture_device())
    text = "\n".join(result.notes)
    host.show_text(text)
    shown = {"text": [text], **show_compared(image, picture)}
    return io.NodeOutput(picture, result.seed, ui=shown)
