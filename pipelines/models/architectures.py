"""Configurations of networks: the shipped ones of the families, with the numbers that stored tensors show.

The shipped ones (`configs/`) say what shapes do not; channels, layers and widths are the tensors', which have
diffusers' and transformers' names here. Heads of attention follow the published rule: 8 in the UNet and
ControlNet of SD1.5, 64 channels each everywhere else. A tensor that is needed and not there is a KeyError.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import Tensor

Config = dict[str, Any]
Tensors = dict[str, Tensor]

HEAD_WIDTH = 64


def load_config(family: str, role: str) -> Config:
    """The published configuration of a network (or the noise schedule) of "sd15" or "sdxl"."""
    file = Path(__file__).parent / "configs" / f"{family}.json"
    return json.loads(file.read_text(encoding="utf-8"))[role]


def unet_config(template: Config, shapes: Tensors) -> Config:
    """Of a UNet, or the part that a ControlNet has in common with one."""
    levels = range(len(template["block_out_channels"]))
    channels = [shapes[f"down_blocks.{i}.resnets.0.conv1.weight"].shape[0] for i in levels]
    depths = [_count(shapes, f"down_blocks.{i}.attentions.0.transformer_blocks.") or 1 for i in levels]
    config = {
        **template,
        "in_channels": shapes["conv_in.weight"].shape[1],
        "block_out_channels": channels,
        "transformer_layers_per_block": depths,
        "cross_attention_dim": shapes["mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"].shape[
            1
        ],
    }
    if template["use_linear_projection"]:
        config["attention_head_dim"] = [max(width // HEAD_WIDTH, 1) for width in channels]
    if template.get("addition_embed_type"):
        config["projection_class_embeddings_input_dim"] = shapes["add_embedding.linear_1.weight"].shape[1]
    return config


def controlnet_config(template: Config, shapes: Tensors) -> Config:
    config = unet_config(template, shapes)
    hint = "controlnet_cond_embedding."
    # Of its convolutions, every other one changes the number of channels.
    steps = [f"{hint}blocks.{n}" for n in range(1, _count(shapes, hint + "blocks."), 2)]
    hint_channels = [shapes[f"{name}.weight"].shape[0] for name in (hint + "conv_in", *steps)]
    config["conditioning_embedding_out_channels"] = hint_channels
    config["conditioning_channels"] = shapes[hint + "conv_in.weight"].shape[1]
    if "num_control_type" in template:
        config["num_control_type"], config["num_trans_channel"] = shapes["task_embedding"].shape
        config["num_trans_layer"] = _count(shapes, "transformer_layes.")
        config["num_proj_channel"] = shapes["spatial_ch_projs.weight"].shape[0]
    return config


def vae_config(template: Config, shapes: Tensors) -> Config:
    levels = range(len(template["block_out_channels"]))
    channels = [shapes[f"encoder.down_blocks.{i}.resnets.0.conv1.weight"].shape[0] for i in levels]
    latent_channels = shapes["decoder.conv_in.weight"].shape[1]
    return {**template, "block_out_channels": channels, "latent_channels": latent_channels}


def clip_config(template: Config, shapes: Tensors) -> Config:
    vocabulary, width = shapes["embeddings.token_embedding.weight"].shape
    config = {
        **template,
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": shapes["encoder.layers.0.mlp.fc1.weight"].shape[0],
        "num_hidden_layers": _count(shapes, "encoder.layers."),
        "num_attention_heads": max(width // HEAD_WIDTH, 1),
        "max_position_embeddings": shapes["embeddings.position_embedding.weight"].shape[0],
    }
    if "text_projection.weight" in shapes:
        config["projection_dim"] = shapes["text_projection.weight"].shape[0]
    return config


def safety_config(shapes: Tensors) -> Config:
    """Of a safety checker: CLIP's image encoder, in the form of OpenAI's ViT-L/14 (openai/CLIP)."""
    width, _, patch, _ = shapes["vision_model.embeddings.patch_embedding.weight"].shape
    places = shapes["vision_model.embeddings.position_embedding.weight"].shape[0] - 1
    return {
        "projection_dim": shapes["visual_projection.weight"].shape[0],
        "vision_config": {
            "hidden_size": width,
            "intermediate_size": shapes["vision_model.encoder.layers.0.mlp.fc1.weight"].shape[0],
            "num_hidden_layers": _count(shapes, "vision_model.encoder.layers."),
            "num_attention_heads": max(width // HEAD_WIDTH, 1),
            "patch_size": patch,
            "image_size": patch * math.isqrt(places),
            "hidden_act": "quick_gelu",
        },
    }


def _count(names: Iterable[str], prefix: str) -> int:
    """How many numbered things there are under a prefix."""
    return len({name[len(prefix) :].split(".")[0] for name in names if name.startswith(prefix)})
