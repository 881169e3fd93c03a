"""What can be asked of CCSR, declared once in the style of `parameters`."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from ..errors import ParameterError
from ..parameters import UpscaleParameters
from ..settings import Settings, declare

TILINGS = ("gaussian", "uniform", "untiled")
COLOR_FIXES = ("adain", "wavelet", "none")

PROMPT = "clean, high-resolution, 8k"
NEGATIVE_PROMPT = "blurry, dotted, noise, raster lines, unclear, lowres, over-smoothed"
"""What the program of version 2 adds to every picture; the networks were trained without captions."""

_V1 = {"t_max": 0.6667, "t_min": 0.3333, "guidance_scale": 1.0, "prompt": "", "negative_prompt": ""}
_V2 = {"t_max": 0.6667, "prompt": PROMPT, "negative_prompt": NEGATIVE_PROMPT}

PRESETS: dict[str, tuple[str, dict[str, Any]]] = {
    # Evaluations of the network: 16, 6, 1, 2.
    "v1 balanced": ("v1", {**_V1, "steps": 45}),
    "v1 fast": ("v1", {**_V1, "steps": 15}),
    "v2 one-step": ("v2", {**_V2, "steps": 1, "t_min": 0.0, "guidance_scale": 1.0}),
    "v2 two-step": ("v2", {**_V2, "steps": 6, "t_min": 0.5, "guidance_scale": 4.5}),
}
"""The official programs' settings, and the version they are for."""

DEFAULT_PRESET = {"v1": "v1 balanced", "v2": "v2 one-step"}

TILE_MULTIPLE = 64
"""Sides of a tile in pixels are multiples of this: the VAE and the UNet divide by 8 each."""


@dataclass(frozen=True, kw_only=True)
class CcsrSettings(Settings):
    """The settings of one CCSR upscale; every value is checked on construction.

    Raises `ParameterError` naming the field and its range for a value out of range or of the wrong type, and
    for values that exclude each other.
    """

    scale: float = declare(
        4.0,
        "How many times wider and taller the result is. The networks were trained at 4.",
        minimum=1,
        maximum=8,
        step=0.05,
        unit="times",
    )
    preset: str = declare(
        "auto",
        "Settings of the official programs, which must fit the loaded version. auto is v1 balanced or v2 "
        "one-step; custom uses steps, t_max, t_min, guidance_scale and the prompts as they stand.",
        choices=("auto", *PRESETS, "custom"),
    )
    seed: int | None = UpscaleParameters.declare_as("seed")
    color_fix: str = declare(
        "adain",
        "Take the colours of the source: its mean and contrast (adain), its low frequencies (wavelet), or "
        "not at all (none).",
        choices=COLOR_FIXES,
    )
    width: int = UpscaleParameters.declare_as("width")
    height: int = UpscaleParameters.declare_as("height")
    steps: int = declare(
        45,
        "Steps of the full chain, of which the part between t_max and t_min is run, after one at full noise.",
        minimum=1,
        maximum=500,
        step=1,
        unit="steps",
        advanced=True,
    )
    t_max: float = declare(
        0.6667,
        "Where in the chain the picture's structure, found at full noise, is taken up again.",
        minimum=0,
        maximum=1,
        step=0.0001,
        advanced=True,
    )
    t_min: float = declare(
        0.3333,
        "Where the chain is left for the VAE's decoder to finish. Lower is slower and adds more texture.",
        minimum=0,
        maximum=1,
        step=0.0001,
        advanced=True,
    )
    guidance_scale: float = declare(
        1.0,
        "How strongly the prompts steer (version 2 only). 1 is none and halves the work.",
        minimum=1,
        maximum=20,
        step=0.1,
        advanced=True,
    )
    prompt: str = declare(
        "",
        "Of custom preset and version 2 only. The networks were trained without captions.",
        multiline=True,
        advanced=True,
    )
    negative_prompt: str = declare(
        "",
        "What guidance leads away from; of custom preset and version 2 only.",
        multiline=True,
        advanced=True,
    )
    tiling: str = declare(
        "gaussian",
        "How the network sees a large picture: in overlapping tiles weighted towards their middle (gaussian) "
        "or evenly (uniform), or whole (untiled), for which memory seldom suffices.",
        choices=TILINGS,
        advanced=True,
    )
    tile_size: int = declare(
        512,
        "Side of the tiles in pixels, a multiple of 64. The networks were trained at 512.",
        minimum=64,
        maximum=4096,
        step=64,
        unit="px",
        advanced=True,
    )
    tile_stride: int = declare(
        256,
        "From one tile to the next in pixels, a multiple of 8. Half a tile is the official programs'; more "
        "is faster.",
        minimum=8,
        maximum=4096,
        step=8,
        unit="px",
        advanced=True,
    )
    tile_batch: int = UpscaleParameters.declare_as("tile_batch")
    official: bool = declare(
        False,
        "Repeat oddities of the official programs, for comparisons; see the documentation.",
        advanced=True,
    )
    override_size_limits: bool = UpscaleParameters.declare_as("override_size_limits")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tile_size % TILE_MULTIPLE:
            raise ParameterError(
                "tile_size", f"{self.tile_size} px is no multiple of {TILE_MULTIPLE}; the network needs one"
            )
        if self.tile_stride % 8 or self.tile_stride > self.tile_size:
            raise ParameterError(
                "tile_stride",
                f"{self.tile_stride} px must be a multiple of 8 and at most tile_size ({self.tile_size} px)",
            )
        if self.t_min >= self.t_max:
            raise ParameterError(
                "t_min", f"{self.t_min:g} must be below t_max ({self.t_max:g}); lower it or raise t_max"
            )

    def resolved(self, version: str) -> CcsrSettings:
        """These settings with those of `preset` in their place, for models of `version` "v1" or "v2".

        Raises `ParameterError` for the preset of another version.
        """
        preset = DEFAULT_PRESET[version] if self.preset == "auto" else self.preset
        if preset == "custom":
            return self
        made_for, values = PRESETS[preset]
        if made_for != version:
            fitting = ", ".join(name for name, (other, _) in PRESETS.items() if other == version)
            raise ParameterError(
                "preset", f"{preset} is for CCSR {made_for}, and {version} is loaded; use auto, {fitting}"
            )
        return dataclasses.replace(self, preset="custom", **values)
