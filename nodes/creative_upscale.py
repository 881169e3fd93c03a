"""The node that enlarges and redraws a picture."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..pipelines.parameters import UpscaleParameters
from ..pipelines.settings import Parameter
from ..pipelines.starter import UPSCALER, Limits, name_model
from . import auto_caption, host, safety_check
from .compare import show_compared
from .compat import io
from .sockets import (
    CaptionerSocket,
    CcsrSocket,
    HostCaptioner,
    HostCcsr,
    HostModels,
    HostSafetyChecker,
    Models,
    SafetySocket,
)
from .user_limits import check_local_size
from .widgets import make_widget

ELSEWHERE = ("model_type",)
"""Settings without a widget here: the loaded models say their family."""

LATER = ("enable_safety_checks", "skip_ccsr")
"""Widgets after all others. Saved workflows hold values by position, so a new widget goes to the end."""


def shown_parameters() -> list[Parameter]:
    """The declared settings that the node has widgets for: the usual ones, the advanced ones, `LATER`."""
    shown = [p for p in UpscaleParameters.declared() if not p.model_source and p.name not in ELSEWHERE]
    return sorted(shown, key=lambda parameter: (parameter.name in LATER, parameter.advanced))


def fit_settings(
    settings: Mapping[str, Any], model_type: str, limits: Limits
) -> tuple[UpscaleParameters, list[str]]:
    """The settings that widgets make for loaded models, and what there is to be said about them."""
    parameters = UpscaleParameters(**settings, model_type=model_type).with_preset()
    # A widget that was not touched cannot be told from one that was set to its default.
    given = {p.name for p in shown_parameters() if getattr(parameters, p.name) != p.default}
    return limits.fit(parameters, given)


class CreativeUpscale(io.ComfyNode):
    """`pipelines.creative.upscale` with ComfyUI's pictures, models, memory and progress."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        first = [p for p in shown_parameters() if p.name not in LATER]
        usual = [p for p in first if not p.advanced]
        rare = [p for p in first if p.advanced]
        later = [p for p in shown_parameters() if p.name in LATER]
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
                CcsrSocket.Input(
                    "ccsr",
                    optional=True,
                    tooltip="From Load CCSR Model: restores the picture before it is redrawn.",
                ),
                CaptionerSocket.Input(
                    "captioner",
                    optional=True,
                    tooltip="From Load Captioner: writes the prompt where it is empty. Without one, the best "
                    "that is installed does.",
                ),
                SafetySocket.Input(
                    "safety_checker",
                    optional=True,
                    tooltip="From Load Safety Checker. Without one, the one that is installed is used.",
                ),
                *[_optional(_widget(parameter)) for parameter in later],
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
        cls,
        image: Tensor,
        models: HostModels,
        upscale_model: Any = None,
        ccsr: HostCcsr | None = None,
        captioner: HostCaptioner | None = None,
        safety_checker: HostSafetyChecker | None = None,
        **settings: Any,
    ) -> io.NodeOutput:
        from ..pipelines.runtime import Runtime  # noqa: PLC0415
        from ..pipelines.stages import run_stages  # noqa: PLC0415  diffusers takes seconds to import

        model_type = models.models.model_type
        parameters, notes = fit_settings(settings, model_type, models.limits)
        check_local_size(image, parameters)
        used = [*ccsr.models.names.values()] if ccsr is not None and not parameters.skip_ccsr else []
        if not used and upscale_model is None and models.upscaler is not None and parameters.creativity > 0:
            upscale_model = models.upscaler
            used.append(name_model(UPSCALER))
        if parameters.creativity > 0 and not parameters.prompt.strip():
            captioner = captioner or auto_caption.best_installed()
            used += [captioner.captioner.name] if captioner else []
        if parameters.enable_safety_checks:
            safety_checker = safety_checker or safety_check.first_installed()
        colors = host.preview_colors(models.models.vae, models.memory)
        progress = host.HostProgress(models.memory.device, model_type, colors)
        with host.visitors_dismissed(models.memory):
            result = run_stages(
                image.movedim(-1, 1),
                parameters,
                models.models,
                _stages(ccsr, captioner, safety_checker),
                upscaler=upscale_model,
                runtime=Runtime(models.memory, progress),
            )
        for note in result.notes:
            logging.warning("Creative Upscale: %s", note)
        picture = result.image.movedim(1, -1).to(host.picture_device())
        prompts = dict.fromkeys(result.prompts)
        written = [
            f"Prompt: {prompt}"
            for prompt in prompts
            if prompt and captioner and not parameters.prompt.strip()
        ]
        used += [name for role, name in result.models.items() if role != "loras"]
        text = "\n".join(
            [*notes, *result.notes, *written, *([f"Made with {', '.join(used)}."] if used else [])]
        )
        host.show_text(text)
        shown = {"text": [text], **show_compared(image, picture)}
        return io.NodeOutput(picture, result.seed, "\n".join(prompts), ui=shown)


def _stages(
    ccsr: HostCcsr | None, captioner: HostCaptioner | None, safety_checker: HostSafetyChecker | None
) -> Any:
    """The engine's functions for the stages around the redraw, each under its own models' memory."""
    from ..pipelines.captioning import caption  # noqa: PLC0415
    from ..pipelines.ccsr.settings import CcsrSettings  # noqa: PLC0415
    from ..pipelines.ccsr.upscaling import ccsr_upscale  # noqa: PLC0415
    from ..pipelines.runtime import Runtime  # noqa: PLC0415
    from ..pipelines.safety import check_safety  # noqa: PLC0415
    from ..pipelines.stages import Stages  # noqa: PLC0415

    def describe(image: Tensor) -> list[str]:
        progress = host.HostProgress(captioner.memory.device)
        return caption(image, captioner.captioner, runtime=Runtime(captioner.memory, progress))

    def restore(image: Tensor, size: tuple[int, int], seed: int) -> Tensor:
        runtime = Runtime(ccsr.memory, host.HostProgress(ccsr.memory.device, "SD_1_5"))
        return ccsr_upscale(image, CcsrSettings(seed=seed), ccsr.models, runtime, size=size)

    def check(image: Tensor) -> Any:
        runtime = Runtime(safety_checker.memory, host.HostProgress(safety_checker.memory.device))
        return check_safety(image, safety_checker.checker, runtime)

    return Stages(
        describe=describe if captioner else None,
        restore=restore if ccsr else None,
        check=check if safety_checker else None,
    )


def _optional(widget: io.WidgetInput) -> io.WidgetInput:
    """ComfyUI shows required inputs first, wherever they are declared."""
    widget.optional = True
    return widget


def _widget(parameter: Parameter) -> io.WidgetInput:
    return make_widget(parameter, dynamic_prompts=True)
