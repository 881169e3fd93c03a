"""What the example workflows are made of; `write_examples.py` turns it into files through ComfyUI's page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

CHECKPOINT, CONTROLNET = "v1-5-pruned-emaonly.safetensors", "control_v11f1e_sd15_tile_fp16.safetensors"
SDXL_CHECKPOINT = "sd_xl_base_1.0.safetensors"
SDXL_CONTROLNET = "xinsir-controlnet-tile-sdxl-1.0.safetensors"
CCSR = "real-world_ccsr-fp16.safetensors"
BUILT_IN = "starter (built in)"

GAP, GROUP_TITLE, NODE_TITLE = 20, 50, 40
"""Room between nodes, and above them in a group, in the canvas' units."""


@dataclass(frozen=True)
class Box:
    """A node: type, width and least height, values of widgets, and the source (node, output) of inputs."""

    kind: str
    width: int
    height: int = 0
    values: Mapping[str, Any] = field(default_factory=dict)
    links: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    title: str = ""


@dataclass(frozen=True)
class Column:
    """A group on the canvas: its title and, from top to bottom, its nodes by number."""

    title: str
    boxes: Mapping[int, Box]


def note(title: str, text: str, height: int, width: int = 400) -> Box:
    """In bold where others would write code, which the page shows in blue on brown."""
    return Box("MarkdownNote", width, height, {"text": text}, title=title)


def picture(width: int = 400) -> Box:
    return Box("LoadImage", width, 340, {"image": "example.png"})


def sd15_models() -> Box:
    values = {"checkpoint": CHECKPOINT, "controlnet": CONTROLNET}
    return Box("CreativeUpscaler_LoadModels", 400, 0, values)


def upscale(links: Mapping[str, tuple[int, int]], **values: Any) -> Box:
    """Without the safety check, which needs a model of its own; the notes say so."""
    values = {"seed": 1, "enable_safety_checks": False, **values}
    return Box("CreativeUpscaler_Upscale", 440, 0, values, links)


def remote(links: Mapping[str, tuple[int, int]], **values: Any) -> Box:
    return Box("CreativeUpscaler_Remote", 440, 0, values, links)


def save(source: tuple[int, int], prefix: str) -> Box:
    return Box("SaveImage", 420, 460, {"filename_prefix": prefix}, {"images": source})


def models_note(*lines: str, checkpoint: str = CHECKPOINT, controlnet: str = CONTROLNET) -> str:
    listed = [
        f"- **{checkpoint}** in **models/checkpoints**",
        f"- **{controlnet}** in **models/controlnet**",
        *lines,
    ]
    return "\n".join(
        [
            *listed,
            "",
            "Or others of the same family. With **download_missing** on, the loaders fetch what is missing.",
        ]
    )


SETTINGS_NOTE = """- **prompt**: what the picture shows. Empty: an installed captioner writes it.
- **creativity** .3 to .5; lower if things turn into others.
- **shape_preservation** .25 to .6; higher holds shapes.
- **detail**: more if it is too smooth.

The safety check is off here: it needs a model of its own. Switch **enable_safety_checks** on \
once it is installed."""

FAL_NOTE = """The picture is sent to fal's service, which charges for it. The key is **FAL_KEY** in \
ComfyUI's environment, or one kept in the settings under **Creative Upscaler**; it is never saved in \
a workflow.

Running the same again is free: the result is kept. **max_cost** and **max_megapixels** limit a run."""

STARTER_NOTE = """Nothing to download: **starter (built in)** is a small model that this pack brings along, \
with its own ControlNet. It is trained by this project and no Stable Diffusion: it sharpens, and redraws \
fine texture a little. Settings that are left as they are become those that suit it; the node says which.

Of words, sharp, detailed, smooth, blurry, noisy and their kin have an effect. For more creativity choose a \
checkpoint and a tile ControlNet of yours."""

FOLDER_NOTE = """Put them into **ComfyUI/input/photos** (or choose another folder below **input**), as JPEG, \
PNG or WebP of any size. One run makes them all, each with its own size and the same seed.

**Load Image Dataset from Folder** is ComfyUI's own; 0.8.0 has it, 0.3.64 does not. The command line does \
folders with every version: **creative-upscaler upscale FOLDER -o OUT**."""

FILES, BEGIN, COSTS = "Files", "Where to begin", "This costs money"
"""Titles of notes."""


def plain(name: str, checkpoint: str, controlnet: str) -> list[Column]:
    """One picture, one family of models, the default settings."""
    models = Box("CreativeUpscaler_LoadModels", 400, 0, {"checkpoint": checkpoint, "controlnet": controlnet})
    files = models_note(checkpoint=checkpoint, controlnet=controlnet)
    return [
        Column("Picture", {1: picture(), 2: models, 5: note(FILES, files, 160)}),
        Column("Creative upscale", {3: upscale({"image": (1, 0), "models": (2, 0)})}),
        Column("Result", {4: save((3, 0), name), 6: note(BEGIN, SETTINGS_NOTE, 220, 420)}),
    ]


CAPTION_NOTE = models_note(
    f"- **{CCSR}** in **models/checkpoints**",
    "- a captioner, such as the folder **Florence-2-large**, in **models/captioners** or **models/LLM**",
)
CAPTION_STAGES = """CCSR restores and enlarges the picture before it is redrawn.

**prompt** is empty, so the captioner writes it; the node shows what it wrote."""

HOST_FILES = f"""- **{CHECKPOINT}** in **models/checkpoints**
- **{CONTROLNET}** in **models/controlnet**

Or others of the same family, with ComfyUI's own loaders."""
HOST_PROMPT = "high quality, highly detailed, high resolution, sharp"
HOST_NEGATIVE = "blurry, low resolution, ugly, pixelated, compression artifacts, grainy"
HOST_NOTE = """Say in the first prompt what the picture shows.

**model** takes any model that ComfyUI draws pictures with, LoRAs and patches included; **vae** and prompts \
are that model's own. **control_net** is for **shape_preservation**, which has no \
effect without one.

For flow models take **euler** and **simple**."""


def host_upscale() -> Box:
    links = {"image": (1, 0), "model": (2, 0), "positive": (5, 0), "negative": (6, 0), "vae": (2, 2)}
    return Box("CreativeUpscaler_UpscaleHostModel", 440, 0, {"seed": 1}, {**links, "control_net": (7, 0)})


EXAMPLES: dict[str, list[Column]] = {
    "creative_upscale": plain("creative_upscale", CHECKPOINT, CONTROLNET),
    "creative_upscale_sdxl": plain("creative_upscale_sdxl", SDXL_CHECKPOINT, SDXL_CONTROLNET),
    "creative_upscale_starter": [
        Column(
            "Picture",
            {
                1: picture(),
                2: Box("CreativeUpscaler_LoadModels", 400, 0, {"checkpoint": BUILT_IN, "controlnet": "none"}),
            },
        ),
        Column("Creative upscale", {3: upscale({"image": (1, 0), "models": (2, 0)})}),
        Column(
            "Result",
            {4: save((3, 0), "creative_upscale_starter"), 5: note("The model", STARTER_NOTE, 260, 420)},
        ),
    ],
    "creative_upscale_ccsr_caption": [
        Column("Picture", {1: picture(), 2: sd15_models()}),
        Column(
            "Before the redraw",
            {
                5: Box("CreativeUpscaler_LoadCCSR", 400, 0, {"v1_checkpoint": CCSR}),
                6: Box("CreativeUpscaler_LoadCaptioner", 400),
                8: note("Stages", CAPTION_STAGES, 130),
                9: note(FILES, CAPTION_NOTE, 220),
            },
        ),
        Column(
            "Creative upscale",
            {3: upscale({"image": (1, 0), "models": (2, 0), "ccsr": (5, 0), "captioner": (6, 0)})},
        ),
        Column("Result", {4: save((3, 0), "creative_upscale")}),
    ],
    "creative_upscale_fal": [
        Column("Picture", {1: picture(), 4: note(COSTS, FAL_NOTE, 200)}),
        Column("At fal", {2: remote({"image": (1, 0)}, seed=1)}),
        Column("Result", {3: save((2, 0), "creative_upscale_fal")}),
    ],
    "creative_upscale_folder": [
        Column(
            "Pictures",
            {
                1: Box("LoadImageDataSetFromFolder", 400, 0, {"folder": "photos"}),
                5: note("The folder", FOLDER_NOTE, 220),
                2: sd15_models(),
                6: note(FILES, models_note(), 160),
            },
        ),
        Column("Creative upscale", {3: upscale({"image": (1, 0), "models": (2, 0)})}),
        Column("Results", {4: save((3, 0), "photos")}),
    ],
    "creative_upscale_local_and_fal": [
        Column(
            "Picture and what both get",
            {
                1: picture(),
                7: Box("PrimitiveStringMultiline", 400, 120, title="Prompt"),
                8: Box("PrimitiveInt", 400, 0, {"value": 1}, title="Seed"),
                2: sd15_models(),
            },
        ),
        Column(
            "On this machine",
            {3: upscale({"image": (1, 0), "models": (2, 0), "prompt": (7, 0), "seed": (8, 0)})},
        ),
        Column("At fal", {5: remote({"image": (1, 0), "prompt": (7, 0), "seed": (8, 0)})}),
        Column(
            "Local left, fal right",
            {
                6: Box("ImageStitch", 420, 0, {"spacing_width": 8}, {"image1": (3, 0), "image2": (5, 0)}),
                4: save((6, 0), "local_and_fal"),
                9: note(COSTS, FAL_NOTE, 220, 420),
            },
        ),
    ],
    "creative_upscale_comfyui_model": [
        Column(
            "Picture and models",
            {
                1: picture(),
                2: Box("CheckpointLoaderSimple", 400, 0, {"ckpt_name": CHECKPOINT}),
                7: Box("ControlNetLoader", 400, 0, {"control_net_name": CONTROLNET}),
                8: note(FILES, HOST_FILES, 180),
            },
        ),
        Column(
            "Prompts",
            {
                5: Box("CLIPTextEncode", 400, 140, {"text": HOST_PROMPT}, {"clip": (2, 1)}, "What it shows"),
                6: Box(
                    "CLIPTextEncode", 400, 140, {"text": HOST_NEGATIVE}, {"clip": (2, 1)}, "What it must not"
                ),
                9: note(BEGIN, HOST_NOTE, 260),
            },
        ),
        Column("Creative upscale", {3: host_upscale()}),
        Column("Result", {4: save((3, 0), "creative_upscale_comfyui_model")}),
    ],
    "ccsr_then_creative_upscale": [
        Column(
            "Picture",
            {
                1: picture(),
                2: sd15_models(),
                7: note(FILES, models_note(f"- **{CCSR}** in **models/checkpoints**"), 180),
            },
        ),
        Column(
            "Faithful: CCSR, 2x",
            {
                5: Box("CreativeUpscaler_LoadCCSR", 400, 0, {"v1_checkpoint": CCSR}),
                6: Box(
                    "CreativeUpscaler_CCSRUpscale",
                    400,
                    0,
                    {"scale": 2, "seed": 1},
                    {"image": (1, 0), "ccsr": (5, 0)},
                ),
            },
        ),
        Column("Creative: redraw, 2x", {3: upscale({"image": (6, 0), "models": (2, 0)})}),
        Column("Result", {4: save((3, 0), "ccsr_then_creative_upscale")}),
    ],
}
