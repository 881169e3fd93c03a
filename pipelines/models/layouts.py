"""What kind of model a file or folder holds, from the names and shapes inside and never from its own name."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from enum import Enum
from pathlib import Path
from typing import Any

from ..errors import ModelFileError
from .files import Header

UNET_PREFIX = "model.diffusion_model."


class Kind(Enum):
    """Kinds of model files; the value completes the sentence "This file is ..."."""

    SD15 = "an SD 1.x base model"
    SDXL = "an SDXL base model"
    CONTROLNET_SD15 = "a ControlNet for SD 1.x"
    CONTROLNET_SDXL = "a ControlNet for SDXL"
    CONTROLNET_UNION_SDXL = "a Union ControlNet for SDXL"
    VAE = "a VAE"

    SD2 = "an SD 2.x base model"
    SDXL_REFINER = "an SDXL refiner"
    SDXL_EDM = "an SDXL model trained with EDM noise (Playground 2.5, CosXL)"
    SD3 = "an SD 3 model"
    FLUX = "a Flux model"
    VIDEO = "a video model"
    INPAINTING = "an inpainting or editing model, whose UNet takes more than the latents"
    UNET = "a UNet without text encoders"
    DIFFUSERS_UNET = "a single UNet of a diffusers folder; give the folder instead"
    TRANSFORMER = "a diffusion transformer, no SD 1.x or SDXL model"
    CONTROLNET_SD2 = "a ControlNet for SD 2.x"
    CONTROLNET_DIFFERENCE = "a ControlNet stored as difference to a base model"
    CONTROL_LORA = "a Control-LoRA"
    CONTROLNET_TRANSFORMER = "a ControlNet for a diffusion transformer (SD 3, Flux)"
    T2I_ADAPTER = "a T2I-Adapter"
    IP_ADAPTER = "an IP-Adapter"
    LORA = "a LoRA"
    EMBEDDING = "a textual inversion"
    TEXT_ENCODER = "a text encoder"
    IMAGE_ENCODER = "an image encoder"
    MOTION = "an AnimateDiff motion module"
    UPSCALER = "an image upscaling network"
    UNKNOWN = "not a kind of model that is known here"


def identify(header: Header) -> Kind:
    """The kind of model that a single file with these tensors holds."""
    if _starts(header, UNET_PREFIX):
        return _identify_base(header)
    if "lora_controlnet" in header:
        return Kind.CONTROL_LORA
    for prefix in ("", "control_model."):
        if f"{prefix}zero_convs.0.0.weight" in header:
            difference = "difference" in header
            return Kind.CONTROLNET_DIFFERENCE if difference else _identify_ldm_controlnet(header, prefix)
    if "controlnet_cond_embedding.conv_in.weight" in header:
        return _identify_diffusers_controlnet(header)
    if _has(header, *_LORA_PARTS):
        return Kind.LORA
    for parts, kind in _OTHERS:
        if _starts(header, *parts):
            return kind
    small = len(header) <= 4 and all(len(shape) <= 2 for _, shape in header.values())
    if small and any(shape[-1:] in ((768,), (1024,), (1280,)) for _, shape in header.values()):
        return Kind.EMBEDDING
    return Kind.UNKNOWN


def identify_folder(path: Path) -> Kind:
    """The kind of a diffusers folder. Raises ModelFileError if it is none or its settings cannot be read."""
    if (path / "model_index.json").is_file():
        index, unet = read_json(path / "model_index.json"), path / "unet" / "config.json"
        if not unet.is_file():
            return Kind.TRANSFORMER if "transformer" in index else Kind.UNKNOWN
        return _identify_folder_unet(index, read_json(unet))
    if not (path / "config.json").is_file():
        raise ModelFileError(
            path, "is a folder without model_index.json or config.json, so no diffusers model"
        )
    config = read_json(path / "config.json")
    match config.get("_class_name"):
        case "AutoencoderKL":
            return Kind.VAE
        case "UNet2DConditionModel":
            return Kind.DIFFUSERS_UNET
        case "ControlNetUnionModel":
            return Kind.CONTROLNET_UNION_SDXL
        case "ControlNetModel" if config.get("addition_embed_type") == "text_time":
            return Kind.CONTROLNET_SDXL
        case "ControlNetModel":
            return Kind.CONTROLNET_SD2 if config.get("use_linear_projection") else Kind.CONTROLNET_SD15
    return Kind.UNKNOWN


def identify_prediction(header: Iterable[str], metadata: Mapping[str, str]) -> dict[str, Any]:
    """What a single file says about its training, as diffusers' scheduler settings.

    `v_pred` and `ztsnr` are the marker tensors of NoobAI and ComfyUI; the metadata are Stability's modelspec.
    """
    v_prediction = "v_pred" in header or metadata.get("modelspec.prediction_type", "").lower().startswith("v")
    return {
        "prediction_type": "v_prediction" if v_prediction else "epsilon",
        "rescale_betas_zero_snr": "ztsnr" in header,
    }


def read_json(path: Path) -> dict[str, Any]:
    """A table from a small JSON file of a model folder. Raises ModelFileError if it is anything else."""
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelFileError(path, f"cannot be read: {error}") from error
    if not isinstance(table, dict):
        raise ModelFileError(path, "is damaged: it holds no table of settings")
    return table


def _identify_base(header: Header) -> Kind:
    for parts, kind in ((("joint_blocks.",), Kind.SD3), (("double_blocks.", "single_blocks."), Kind.FLUX)):
        if _starts(header, *(UNET_PREFIX + part for part in parts)):
            return kind
    first = header.get(UNET_PREFIX + "input_blocks.0.0.weight")
    if first is None:
        return Kind.TRANSFORMER
    if _has(header, ".time_stack.", ".time_mixer."):
        return Kind.VIDEO
    if first[1][1:2] != (4,):
        return Kind.INPAINTING
    if UNET_PREFIX + "label_emb.0.0.weight" in header:
        if UNET_PREFIX + "input_blocks.9.0.op.weight" in header:
            return Kind.SDXL_REFINER
        if _starts(header, "edm_mean", "edm_vpred"):
            return Kind.SDXL_EDM
        encoders = ("conditioner.embedders.0.", "conditioner.embedders.1.")
        return Kind.SDXL if all(_starts(header, encoder) for encoder in encoders) else Kind.UNET
    if _is_linear(header, UNET_PREFIX + "input_blocks.1.1.proj_in.weight"):
        return Kind.SD2
    return Kind.SD15 if _starts(header, "cond_stage_model.transformer.") else Kind.UNET


def _identify_ldm_controlnet(header: Header, prefix: str) -> Kind:
    if f"{prefix}label_emb.0.0.weight" in header:
        return Kind.CONTROLNET_SDXL
    linear = _is_linear(header, f"{prefix}input_blocks.1.1.proj_in.weight")
    return Kind.CONTROLNET_SD2 if linear else Kind.CONTROLNET_SD15


def _identify_diffusers_controlnet(header: Header) -> Kind:
    if "task_embedding" in header:
        return Kind.CONTROLNET_UNION_SDXL
    if "add_embedding.linear_1.weight" in header:
        return Kind.CONTROLNET_SDXL
    linear = _is_linear(header, "down_blocks.0.attentions.0.proj_in.weight")
    return Kind.CONTROLNET_SD2 if linear else Kind.CONTROLNET_SD15


def _identify_folder_unet(index: Mapping[str, Any], unet: Mapping[str, Any]) -> Kind:
    if unet.get("in_channels") != unet.get("out_channels"):
        return Kind.INPAINTING
    if unet.get("addition_embed_type") == "text_time":
        return Kind.SDXL if (index.get("text_encoder") or [None])[0] else Kind.SDXL_REFINER
    return Kind.SD2 if unet.get("use_linear_projection") else Kind.SD15


def _is_linear(header: Header, key: str) -> bool:
    """SD 2.x and SDXL project with linear layers where SD 1.x has 1x1 convolutions."""
    return key in header and len(header[key][1]) == 2


def _starts(header: Iterable[str], *prefixes: str) -> bool:
    return any(key.startswith(prefixes) for key in header)


def _has(header: Iterable[str], *parts: str) -> bool:
    return any(part in key for key in header for part in parts)


_LORA_PARTS = (
    ".lora_down.",
    ".lora_up.",
    ".lora_A.",
    ".lora.down.",
    ".hada_w1_a",
    ".lokr_w1",
    ".lora_linear_layer.",
)
_OTHERS: tuple[tuple[tuple[str, ...], Kind], ...] = (
    (("first_stage_model.decoder.conv_in", "decoder.conv_in.", "vae.decoder.conv_in."), Kind.VAE),
    (("controlnet_blocks.", "controlnet_x_embedder"), Kind.CONTROLNET_TRANSFORMER),
    (("down_blocks.0.motion_modules.", "module.down_blocks.0.motion_modules."), Kind.MOTION),
    (("down_blocks.0.resnets.",), Kind.DIFFUSERS_UNET),
    (("input_blocks.0.0.",), Kind.UNET),
    (("joint_blocks.",), Kind.SD3),
    (("double_blocks.", "single_transformer_blocks."), Kind.FLUX),
    (("transformer_blocks.", "blocks.0.attn", "layers.0.attention."), Kind.TRANSFORMER),
    (("ip_adapter.", "image_proj."), Kind.IP_ADAPTER),
    (("adapter.body.", "body.0.block1.", "body.0.resnets."), Kind.T2I_ADAPTER),
    (("emb_params", "string_to_param.", "clip_l", "clip_g"), Kind.EMBEDDING),
    (("text_model.", "encoder.block.0.", "text_projection", "transformer.resblocks."), Kind.TEXT_ENCODER),
    (("vision_model.", "visual."), Kind.IMAGE_ENCODER),
    (("params_ema.", "params.", "conv_first.", "model.0.", "model.1.sub."), Kind.UPSCALER),
)
