"""The published (ldm, A1111, ComfyUI) names of the weights of diffusers' and transformers' modules.

Written for the tests, independently of the loader that they test.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor


def unet_to_ldm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {_unet_key(key, _levels(state)): value for key, value in state.items()}


def controlnet_to_ldm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {"control_model." + _controlnet_key(key, _levels(state)): value for key, value in state.items()}


def vae_to_ldm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    # The ldm VAE's attention is made of 1x1 convolutions, diffusers' of linear layers.
    return {
        _vae_key(key): value[:, :, None, None] if "attentions" in key and value.ndim == 2 else value
        for key, value in state.items()
    }


def clip_g_to_open_clip(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    out: dict[str, Tensor] = {"logit_scale": torch.tensor(4.6)}
    state = {clip_key(key): value for key, value in state.items()}
    for key, value in state.items():
        if key == "text_projection.weight":
            out["text_projection"] = value.T
        elif match := re.fullmatch(r"text_model\.encoder\.layers\.(\d+)\.self_attn\.q_proj\.(\w+)", key):
            parts = [state[key.replace("q_proj", name)] for name in ("q_proj", "k_proj", "v_proj")]
            out[f"transformer.resblocks.{match[1]}.attn.in_proj_{match[2]}"] = torch.cat(parts)
        elif "k_proj" not in key and "v_proj" not in key:
            out[_replace(key, _OPEN_CLIP_NAMES)] = value
    return out


_OPEN_CLIP_NAMES = (
    (r"^text_model\.embeddings\.token_embedding", "token_embedding"),
    (r"^text_model\.embeddings\.position_embedding\.weight", "positional_embedding"),
    (r"^text_model\.final_layer_norm", "ln_final"),
    (r"^text_model\.encoder\.layers", "transformer.resblocks"),
    (r"self_attn\.out_proj", "attn.out_proj"),
    (r"layer_norm(\d)", r"ln_\1"),
    (r"mlp\.fc1", "mlp.c_fc"),
    (r"mlp\.fc2", "mlp.c_proj"),
)
_RESNET_NAMES = (
    (r"norm1", "in_layers.0"),
    (r"conv1", "in_layers.2"),
    (r"time_emb_proj", "emb_layers.1"),
    (r"norm2", "out_layers.0"),
    (r"conv2", "out_layers.3"),
    (r"conv_shortcut", "skip_connection"),
)
_UNET_NAMES = (
    (r"^time_embedding\.linear_1", "time_embed.0"),
    (r"^time_embedding\.linear_2", "time_embed.2"),
    (r"^add_embedding\.linear_1", "label_emb.0.0"),
    (r"^add_embedding\.linear_2", "label_emb.0.2"),
    (r"^conv_in", "input_blocks.0.0"),
    (r"^conv_norm_out", "out.0"),
    (r"^conv_out", "out.2"),
    (r"^mid_block\.resnets\.0", "middle_block.0"),
    (r"^mid_block\.attentions\.0", "middle_block.1"),
    (r"^mid_block\.resnets\.1", "middle_block.2"),
)
_VAE_NAMES = (
    (r"mid_block\.resnets\.0", "mid.block_1"),
    (r"mid_block\.resnets\.1", "mid.block_2"),
    (r"mid_block\.attentions\.0\.group_norm", "mid.attn_1.norm"),
    (r"mid_block\.attentions\.0\.to_([qkv])", r"mid.attn_1.\1"),
    (r"mid_block\.attentions\.0\.to_out\.0", "mid.attn_1.proj_out"),
    (r"down_blocks\.(\d)\.resnets", r"down.\1.block"),
    (r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample"),
    (r"up_blocks\.(\d)\.upsamplers\.0", r"up_blocks.\1.upsample"),
    (r"up_blocks\.(\d)\.resnets", r"up_blocks.\1.block"),
    (r"conv_shortcut", "nin_shortcut"),
    (r"conv_norm_out", "norm_out"),
)


def _unet_key(key: str, levels: int) -> str:
    """ldm numbers the two resnets and the downsampler of a level in a row, after the input convolution."""
    match = re.match(r"(down|up)_blocks\.(\d)\.(resnets|attentions|downsamplers|upsamplers)\.(\d)\.(.+)", key)
    if not match:
        key = _replace(key, _UNET_NAMES)
        return _replace(key, _RESNET_NAMES) if key.startswith(("middle_block.0", "middle_block.2")) else key
    side, level, kind, index, rest = match[1], int(match[2]), match[3], int(match[4]), match[5]
    if kind == "downsamplers":
        return f"input_blocks.{3 * (level + 1)}.0.{rest.replace('conv', 'op')}"
    if kind == "upsamplers":
        # It follows the attention of its block where there is one: in SD1.5 not at the first, in SDXL always.
        position = 1 if levels == 4 and level == 0 else 2
        return f"output_blocks.{3 * level + 2}.{position}.{rest}"
    block = (
        f"input_blocks.{1 + 3 * level + index}" if side == "down" else f"output_blocks.{3 * level + index}"
    )
    return f"{block}.0.{_replace(rest, _RESNET_NAMES)}" if kind == "resnets" else f"{block}.1.{rest}"


def _controlnet_key(key: str, levels: int) -> str:
    if match := re.match(r"controlnet_down_blocks\.(\d+)\.(.+)", key):
        return f"zero_convs.{match[1]}.0.{match[2]}"
    if match := re.match(r"controlnet_cond_embedding\.blocks\.(\d)\.(.+)", key):
        return f"input_hint_block.{2 * int(match[1]) + 2}.{match[2]}"
    key = key.replace("controlnet_mid_block", "middle_block_out.0")
    key = key.replace("controlnet_cond_embedding.conv_in", "input_hint_block.0")
    key = key.replace("controlnet_cond_embedding.conv_out", "input_hint_block.14")
    return key if key.startswith(("middle_block_out", "input_hint_block")) else _unet_key(key, levels)


def _vae_key(key: str) -> str:
    # ldm counts the decoder's levels from the finest.
    return re.sub(r"up_blocks\.(\d)", lambda match: f"up.{3 - int(match[1])}", _replace(key, _VAE_NAMES))


def clip_key(key: str) -> str:
    """transformers dropped the level `text_model` from one of its two CLIP text classes."""
    return key if key.startswith(("text_model.", "text_projection")) else "text_model." + key


def _levels(state: Mapping[str, Tensor]) -> int:
    return len({key.split(".")[1] for key in state if key.startswith("down_blocks.")})


def _replace(key: str, names: tuple[tuple[str, str], ...]) -> str:
    for pattern, replacement in names:
        key = re.sub(pattern, replacement, key)
    return key
