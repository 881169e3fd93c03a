"""What the keys of LoRA files mean: which part of a change, and of which module of the networks."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import count, takewhile

from torch import nn

ModuleName = tuple[str, str]
"""Role ("unet", "text_encoder" or "text_encoder_2") and dotted name of a module inside that network."""


def split_key(key: str) -> tuple[str, str] | None:
    """The module as the file spells it, and the part of its change (a value of `_PARTS`) that the tensor is.

    None for a key that no known layout has.
    """
    for suffix, part in _PARTS.items():
        if key.endswith(suffix):
            return key.removesuffix(suffix).replace("base_model.model.", ""), part
    return None


def module_names(networks: Mapping[str, nn.Module]) -> dict[str, ModuleName]:
    """Every spelling that a LoRA file may use for a module of these networks (keys: roles).

    Kohya's trainers write a module's path with underscores, in diffusers' names or, for SDXL, in those of the
    original code (sgm); peft, diffusers and ComfyUI write dots. A spelling without a network's prefix is the
    UNet's, or the text encoder's where there is only one.
    """
    names: dict[str, ModuleName] = {}
    for role, network in networks.items():
        spellings = _unet_spellings if role == "unet" else _text_spellings
        plain = [""] if role == "unet" or len(networks) == 2 else []
        for name, spelling in spellings(network):
            for prefix in (*_PREFIXES[role], *plain):
                names[prefix + spelling] = (role, name)
            for prefix in _KOHYA_PREFIXES[role]:
                names[prefix + spelling.replace(".", "_")] = (role, name)
    return names


def kind_of_model(shapes: Iterable[tuple[str, Sequence[int]]]) -> str | None:
    """What model has modules of these names, in any spelling, and weight shapes; None if nothing tells."""
    by_name = None
    for name, shape in shapes:
        if name.endswith(("attn2.to_k", "attn2_to_k")):
            # What cross-attention reads is as wide as the text embeddings, and those differ between families.
            return f"{_FAMILIES.get(shape[1], 'a model')} (text width {shape[1]})"
        if re.match("lora_te2_|text_encoder_2", name):
            by_name = "SDXL"
        elif re.search("(double|single|joint|single_transformer)_blocks|^(lora_)?transformer", name):
            by_name = "a transformer network such as FLUX or SD3"
    return by_name


# The published widths of the text embeddings.
_FAMILIES = {768: "SD 1.x", 1024: "SD 2.x", 1280: "the SDXL refiner", 2048: "SDXL"}

_PARTS = {
    ".lora_up.weight": "up",
    ".lora_down.weight": "down",
    ".lora_mid.weight": "mid",
    ".lora.up.weight": "up",
    ".lora.down.weight": "down",
    ".lora_linear_layer.up.weight": "up",
    ".lora_linear_layer.down.weight": "down",
    "_lora.up.weight": "up",
    "_lora.down.weight": "down",
    ".lora_B.weight": "up",
    ".lora_A.weight": "down",
    ".lora_B.default.weight": "up",
    ".lora_A.default.weight": "down",
    **{f".hada_{part}": f"hada_{part}" for part in ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2")},
    **{f".lokr_{part}": f"lokr_{part}" for part in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")},
    ".alpha": "alpha",
    ".dora_scale": "dora_scale",
    ".lora_magnitude_vector": "magnitude",
    ".lora_magnitude_vector.weight": "magnitude",
    ".lora_magnitude_vector.default.weight": "magnitude",
    ".diff": "diff",
    ".diff_b": "diff_b",
    ".w_norm": "diff",
    ".b_norm": "diff_b",
}

_PREFIXES = {
    "unet": ("unet.", "diffusion_model."),
    "text_encoder": ("text_encoder.", "text_encoders.clip_l.transformer."),
    "text_encoder_2": ("text_encoder_2.", "text_encoders.clip_g.transformer."),
}
_KOHYA_PREFIXES = {
    "unet": ("lora_unet_", "lycoris_"),
    "text_encoder": ("lora_te_", "lora_te1_"),
    "text_encoder_2": ("lora_te2_",),
}


def _text_spellings(encoder: nn.Module) -> Iterator[tuple[str, str]]:
    """Files always have the level `text_model`; transformers dropped it from one of its two CLIP classes."""
    for name, _ in encoder.named_modules():
        short = name.removeprefix("text_model.")
        for spelling in (short, "text_model." + short):
            yield name, spelling
            # diffusers' first LoRA format named a text encoder's projections like a UNet's.
            yield name, re.sub(r"([qkv])_proj$", r"to_\1", spelling).replace("out_proj", "to_out")


def _unet_spellings(unet: nn.Module) -> Iterator[tuple[str, str]]:
    for name, _ in unet.named_modules():
        yield name, name
        # The attention processors of diffusers' first LoRA format.
        yield name, name.replace(".to_", ".processor.to_").removesuffix(".0")
    for ours, sgm in _sgm_blocks({name for name, _ in unet.named_modules()}):
        resnet = ".resnets." in ours
        for inner, _ in unet.get_submodule(ours).named_modules():
            name = f"{ours}.{inner}" if inner else ours
            renamed = _SGM_RESNET.get(inner, inner) if resnet else inner
            yield name, f"{sgm}.{renamed}" if inner else sgm


_SGM_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}


def _sgm_blocks(names: set[str]) -> Iterator[tuple[str, str]]:
    """Blocks of a diffusers UNet with their names in the original code, which numbers a side's in a row."""

    def existing(pattern: str) -> Iterator[int]:
        return takewhile(lambda index: pattern.format(index) in names, count())

    fixed = {
        "conv_in": "input_blocks.0.0",
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        "add_embedding.linear_1": "label_emb.0.0",
        "add_embedding.linear_2": "label_emb.0.2",
        "mid_block.resnets.0": "middle_block.0",
        "mid_block.attentions.0": "middle_block.1",
        "mid_block.resnets.1": "middle_block.2",
        "conv_norm_out": "out.0",
        "conv_out": "out.2",
    }
    yield from ((ours, sgm) for ours, sgm in fixed.items() if ours in names)
    for side, sgm_side, number in (("down", "input_blocks", 1), ("up", "output_blocks", 0)):
        for level in existing(side + "_blocks.{}"):
            block = f"{side}_blocks.{level}"
            for index in existing(block + ".resnets.{}"):
                yield f"{block}.resnets.{index}", f"{sgm_side}.{number}.0"
                if f"{block}.attentions.{index}" in names:
                    yield f"{block}.attentions.{index}", f"{sgm_side}.{number}.1"
                number += 1
            if f"{block}.downsamplers.0" in names:
                yield f"{block}.downsamplers.0.conv", f"{sgm_side}.{number}.0.op"
                number += 1
            if f"{block}.upsamplers.0" in names:
                # It shares the number of the last resnet, after the attention where there is one.
                place = 2 if f"{block}.attentions.0" in names else 1
                yield f"{block}.upsamplers.0", f"{sgm_side}.{number - 1}.{place}"
