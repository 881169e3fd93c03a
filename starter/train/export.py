"""Stage `export`: the finished stages as the files that ship with the pack, in fp16."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel

SUPER_RESOLUTION = Path("sr") / "starter-sr-2x.safetensors"
DIFFUSION = Path("diffusion")
PIPELINE = {
    "_class_name": "StableDiffusionControlNetImg2ImgPipeline",
    "controlnet": ["diffusers", "ControlNetModel"],
    "feature_extractor": [None, None],
    "image_encoder": [None, None],
    "requires_safety_checker": False,
    "safety_checker": [None, None],
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}
"""`model_index.json`: what diffusers' pipeline of that name loads."""


def export(run: Path, destination: Path) -> None:
    """Write `sr/starter-sr-2x.safetensors` and the diffusers folder `diffusion` from those stages of `run`
    that are finished; replaces what is there."""
    if (trained := run / "sr" / "averaged.safetensors").exists():
        (destination / SUPER_RESOLUTION).parent.mkdir(parents=True, exist_ok=True)
        weights = {key: value.half() for key, value in load_file(trained).items()}
        metadata = {"modelspec.title": "starter-sr-2x", "modelspec.license": "Apache-2.0"}
        save_file(weights, destination / SUPER_RESOLUTION, metadata=metadata)
    trained = run / "diffusion" / "averaged"
    if not trained.exists():
        return
    folder = destination / DIFFUSION
    shutil.rmtree(folder, ignore_errors=True)
    networks = {
        "vae": AutoencoderKL.from_pretrained(run / "vae"),
        "unet": UNet2DConditionModel.from_pretrained(trained / "unet"),
        "controlnet": ControlNetModel.from_pretrained(trained / "controlnet"),
        "text_encoder": CLIPTextModel.from_pretrained(trained / "text_encoder"),
    }
    for name, network in networks.items():
        network.to(torch.float16).save_pretrained(folder / name)
    for name in ("tokenizer", "scheduler"):
        shutil.copytree(trained / name, folder / name)
    (folder / "model_index.json").write_text(json.dumps(PIPELINE, indent=2) + "\n", encoding="utf-8")
