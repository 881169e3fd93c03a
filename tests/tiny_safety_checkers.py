"""Tiny safety checkers whose verdict is decided by their thresholds, in both layouts of the published one."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPConfig

ALWAYS, NEVER = -2.0, 2.0
"""Thresholds beyond every cosine."""


def make_checker(threshold: float, seed: int = 0) -> StableDiffusionSafetyChecker:
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 1}
    config = CLIPConfig(
        vision_config={**vision, "image_size": 64, "patch_size": 32, "hidden_act": "quick_gelu"},
        projection_dim=16,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        checker = StableDiffusionSafetyChecker(config).eval()
        with torch.no_grad():
            for parameter in checker.parameters():
                if parameter.ndim >= 2:
                    parameter.normal_(std=0.3)
            checker.concept_embeds_weights.fill_(threshold)
            checker.special_care_embeds_weights.fill_(threshold)
    return checker


def published_names(checker: StableDiffusionSafetyChecker) -> dict[str, Tensor]:
    """The tensors under the names of the file of 2022."""
    names = {key: key.replace("vision_model.vision_model.", "vision_model.") for key in checker.state_dict()}
    tensors = {
        names[key].replace("vision_model.", "vision_model.vision_model."): tensor.contiguous()
        for key, tensor in checker.state_dict().items()
    }
    places = checker.config.vision_config.image_size // checker.config.vision_config.patch_size
    position_ids = torch.arange(places**2 + 1)[None]
    return tensors | {"vision_model.vision_model.embeddings.position_ids": position_ids}


def write_folder(folder: Path, threshold: float, *, pickle: bool = False) -> Path:
    """As CompVis published it: a folder with a configuration, and weights as a pickle or safetensors."""
    checker = make_checker(threshold)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(checker.config.to_dict(), default=str))
    if pickle:
        torch.save(published_names(checker), folder / "pytorch_model.bin")
    else:
        save_file(published_names(checker), folder / "model.safetensors")
    return folder
