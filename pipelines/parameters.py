"""Every user-facing setting, declared once: name, type, default, range, unit, help, fal's field.

Node widgets, command-line flags, the remote payload and the documentation table are derived from
`UpscaleParameters.declared()`. The fields marked `fal` keep the names, defaults and meaning of the
published schema of `fal-ai/creative-upscaler`; those whose range fal does not publish have one of ours.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from typing_extensions import Self

from .errors import ParameterError
from .settings import MAX_SEED, Settings, declare

SAMPLERS = (
    "euler",
    "euler_ancestral",
    "dpmpp_2m",
    "dpmpp_2m_sde",
    "dpmpp_3m_sde",
    "uni_pc",
    "lcm",
    "ddim",
    "tcd",
)
SCHEDULERS = ("karras", "normal")
BACK_PROJECTION = "back_projection"
COLOR_FIXES = ("wavelet", "adain", "lab", BACK_PROJECTION, "none")
SHAPE_SCHEDULES = ("constant", "fading")

PRESETS: dict[str, dict[str, Any]] = {
    # Values and sources: each preset is what that program does at its defaults, in our units.
    "custom": {},
    "fal": {
        "creativity": 0.5,
        "shape_preservation": 0.25,
        "shape_decay": 1.0,
        "shape_schedule": "constant",
        "detail": 1.0,
        "guidance_scale": 7.5,
        "num_inference_steps": 20,
    },
    # clarity-upscaler's creativity .35 starts its Karras schedule at timestep 174 and runs 7 evaluations.
    "clarity": {
        "creativity": 0.174,
        "shape_preservation": 0.6,
        "shape_decay": 0.825,
        "shape_schedule": "constant",
        "detail": 0.5,
        "guidance_scale": 6.0,
        "num_inference_steps": 41,
        "sampler": "dpmpp_3m_sde",
        "scheduler": "karras",
    },
    "finegrain": {
        "creativity": 0.35,
        "shape_preservation": 0.6,
        "shape_decay": 1.0,
        "shape_schedule": "constant",
        "detail": 0.5,
        "guidance_scale": 6.0,
        "num_inference_steps": 20,
        "sampler": "ddim",
        "scheduler": "normal",
    },
    # InvokeAI at creativity 0 and structure 0: ControlNet .625 to 55 %, .214 to 85 %, then none.
    "invoke": {
        "creativity": 0.501,
        "shape_preservation": 0.625,
        "shape_decay": 1.0,
        "shape_schedule": "fading",
        "detail": 0.0,
    },
    # Four evaluations at creativity .5 without an unconditional branch; each needs its matching LoRA.
    "lcm": {"sampler": "lcm", "scheduler": "normal", "guidance_scale": 1.0, "num_inference_steps": 8},
    "hyper_sd": {"sampler": "ddim", "scheduler": "normal", "guidance_scale": 1.0, "num_inference_steps": 8},
    "tcd": {"sampler": "tcd", "scheduler": "normal", "guidance_scale": 1.0, "num_inference_steps": 8},
}


@dataclass(frozen=True, kw_only=True)
class UpscaleParameters(Settings):
    """The settings of one creative upscale; every value is checked on construction.

    Raises `ParameterError` naming the field and its range for a value that is out of range, not finite
    or of the wrong type.
    """

    model_type: str = declare(
        "SD_1_5",
        "Family of the base model. A model file of the other family is refused.",
        choices=("SD_1_5", "SDXL"),
        fal=True,
    )
    prompt: str = declare(
        "",
        "What the picture shows, as exactly as possible. Weights such as (fur:1.2) and textual inversions work; any length.",
        multiline=True,
        fal=True,
    )
    scale: float = declare(
        2.0,
        "How many times wider and taller the result is. Above 2 it is made in several passes.",
        minimum=1,
        maximum=5,
        step=0.05,
        unit="times",
        fal=True,
    )
    creativity: float = declare(
        0.5,
        "How far the result may depart from the input: the noise level the redraw starts from. 0 only resizes; "
        "to .35 stays faithful; above .6 things start to change into others.",
        minimum=0,
        maximum=1,
        step=0.01,
        fal=True,
    )
    detail: float = declare(
        1.0,
        "How much fine texture to add. Weight of the detail LoRA when one is loaded; else the network is told of less "
        "noise than there is, outside of flat areas. 0 is off.",
        minimum=0,
        maximum=5,
        step=0.05,
        fal=True,
    )
    shape_preservation: float = declare(
        0.25,
        "How firmly shapes are held: weight of the tile ControlNet. 0 runs none; above 1.5 the result stiffens.",
        minimum=0,
        maximum=3,
        step=0.05,
        fal=True,
    )
    prompt_suffix: str = declare(
        " high quality, highly detailed, high resolution, sharp",
        "Appended to the prompt as it is, so it begins with a space. May name textual inversions.",
        multiline=True,
        fal=True,
    )
    negative_prompt: str = declare(
        "blurry, low resolution, bad, ugly, low quality, pixelated, interpolated, compression artifacts, noisey, grainy",
        "What the picture must not look like. Without effect at guidance 1.",
        multiline=True,
        fal=True,
    )
    seed: int | None = declare(
        None,
        "The same seed, picture and settings give the same result. Left out, one is drawn and returned.",
        minimum=0,
        maximum=MAX_SEED,
        step=1,
        fal=True,
    )
    guidance_scale: float = declare(
        7.5,
        "How strongly the prompts steer (classifier-free guidance). 1 skips the negative prompt and halves the work.",
        minimum=0,
        maximum=30,
        step=0.1,
        fal=True,
    )
    num_inference_steps: int = declare(
        20,
        "Steps of a full schedule; the part that creativity needs is run, so 20 at .5 is 10.",
        minimum=1,
        maximum=200,
        step=1,
        unit="steps",
        fal=True,
    )
    enable_safety_checks: bool = declare(
        True, "Replace pictures that a safety checker flags with black ones.", advanced=True, fal=True
    )
    skip_ccsr: bool = declare(
        False,
        "Leave out the CCSR restoration before the creative pass, even if a CCSR model is given.",
        fal=True,
    )
    override_size_limits: bool = declare(
        False, "Allow results above 16 megapixels, which can take very long.", advanced=True, fal=True
    )
    base_model_url: str | None = declare(
        None, "Single-file checkpoint to use as the base model.", model_source=True, advanced=True, fal=True
    )
    additional_lora_url: str | None = declare(
        None, "A LoRA to apply to the base model.", model_source=True, advanced=True, fal=True
    )
    additional_lora_scale: float = declare(
        1.0,
        "Weight of the additional LoRA.",
        minimum=-5,
        maximum=5,
        step=0.05,
        model_source=True,
        advanced=True,
        fal=True,
    )
    additional_embedding_url: str | None = declare(
        None,
        "A textual inversion; its file name becomes a word for the prompts.",
        model_source=True,
        advanced=True,
        fal=True,
    )

    preset: str = declare(
        "custom",
        "Settings of a known program in place of the ones here: fal, clarity, finegrain, invoke; or of a few-step "
        "LoRA: lcm, hyper_sd, tcd. custom uses the values as they stand.",
        choices=tuple(PRESETS),
    )
    width: int = declare(
        0,
        "Exact width of the result; 0 follows from scale or height.",
        minimum=0,
        maximum=65536,
        step=1,
        unit="px",
        advanced=True,
    )
    height: int = declare(
        0,
        "Exact height of the result; 0 follows from scale or width.",
        minimum=0,
        maximum=65536,
        step=1,
        unit="px",
        advanced=True,
    )
    sampler: str = declare("dpmpp_2m", "Solver of the denoising process.", choices=SAMPLERS, advanced=True)
    scheduler: str = declare(
        "karras",
        "How the steps are spread from the starting noise to none. The start is the same for all.",
        choices=SCHEDULERS,
        advanced=True,
    )
    color_fix: str = declare(
        "wavelet",
        "Take the colours of the source: its low frequencies (wavelet), its mean and contrast (adain), the same in "
        "LAB (lab), all of it, so that the result made small again is the source (back_projection), or not at all "
        "(none).",
        choices=COLOR_FIXES,
        advanced=True,
    )
    shape_decay: float = declare(
        1.0,
        "Weakens shape preservation towards the fine layers: each gets this much of the next coarser one. "
        ".825 lets the prompt lead.",
        minimum=0.1,
        maximum=1,
        step=0.005,
        advanced=True,
    )
    shape_end: float = declare(
        1.0,
        "Part of the steps after which shape preservation stops; .85 frees the last steps for texture and saves time.",
        minimum=0,
        maximum=1,
        step=0.01,
        advanced=True,
    )
    shape_schedule: str = declare(
        "constant",
        "constant keeps the weight; fading holds it to 55 % of the steps, a third of it to 85 %, then none.",
        choices=SHAPE_SCHEDULES,
        advanced=True,
    )
    guidance_interval: bool = declare(
        False,
        "Apply guidance only at middle noise levels, which saves a tenth to a third of the work.",
        advanced=True,
    )
    tile_size: int = declare(
        0,
        "Side of the tiles the network sees; 0 picks the cheapest that suits the model. Smaller is more intricate.",
        minimum=0,
        maximum=4096,
        step=64,
        unit="px",
        advanced=True,
    )
    tile_overlap: int = declare(
        128,
        "Least overlap of neighbouring tiles; at most half a tile is used.",
        minimum=32,
        maximum=1024,
        step=8,
        unit="px",
        advanced=True,
    )
    tile_batch: int = declare(
        0,
        "Tiles evaluated at once; 0 follows from free memory. Changes speed, not the picture.",
        minimum=0,
        maximum=256,
        step=1,
        advanced=True,
    )
    compile_networks: bool = declare(
        False,
        "Compile the networks with torch.compile: slow the first time, faster for many pictures on a GPU.",
        advanced=True,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tile_size and self.tile_size < 2 * self.tile_overlap:
            raise ParameterError(
                "tile_size",
                f"{self.tile_size} px is less than twice tile_overlap ({self.tile_overlap} px); "
                "enlarge the tile, lower the overlap, or set tile_size to 0",
            )

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Self:
        """As `Settings.from_mapping`; a `preset` replaces defaults, and values given beside it win over it."""
        return super().from_mapping({**PRESETS.get(values.get("preset", "custom"), {}), **values})

    def with_preset(self) -> UpscaleParameters:
        """These settings with those of the chosen preset in their place."""
        return dataclasses.replace(self, **PRESETS[self.preset])
