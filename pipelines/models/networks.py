"""Networks made from stored tensors: complete and of one piece, or not made at all."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from diffusers import AutoencoderKL, ControlNetModel, ControlNetUnionModel, UNet2DConditionModel
from diffusers.loaders.single_file_utils import (
    convert_controlnet_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
)
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from ..errors import ModelFileError
from .architectures import (
    Config,
    Tensors,
    clip_config,
    controlnet_config,
    safety_config,
    unet_config,
    vae_config,
)
from .layouts import UNET_PREFIX
from .parts import Part


def load_unet(part: Part, template: Config, dtype: torch.dtype) -> UNet2DConditionModel:
    """From ldm or diffusers names; `template` is the family's configuration."""

    def make(shapes: Tensors) -> UNet2DConditionModel:
        return UNet2DConditionModel.from_config(part.config or unet_config(template, shapes))

    return _load(part, "UNet", partial(_rename_unet, template), make, dtype)


def load_vae(part: Part, template: Config, dtype: torch.dtype) -> AutoencoderKL:
    """From ldm or diffusers names."""

    def make(shapes: Tensors) -> AutoencoderKL:
        return AutoencoderKL.from_config(part.config or vae_config(template, shapes))

    return _load(part, "VAE", partial(_rename_vae, template), make, dtype)


def load_controlnet_network(
    part: Part, template: Config, dtype: torch.dtype
) -> ControlNetModel | ControlNetUnionModel:
    """From ldm or diffusers names; of the Union kind where `template` has a number of control types."""

    def make(shapes: Tensors) -> ControlNetModel | ControlNetUnionModel:
        kind = ControlNetUnionModel if "num_control_type" in template else ControlNetModel
        return kind.from_config(part.config or controlnet_config(template, shapes))

    return _load(part, "ControlNet", partial(_rename_controlnet, template), make, dtype)


def load_latent_hint_controlnet(part: Part, template: Config, dtype: torch.dtype) -> ControlNetModel:
    """A ControlNet whose hint is latents, through one convolution in place of the hint encoder (CCSR).

    From CCSR v1's ldm names, where that convolution is the half of the first one that sees channels 4 to 7,
    or from CCSR v2's, diffusers' and `condition_conv_in`.
    """

    def make(shapes: Tensors) -> ControlNetModel:
        controlnet = ControlNetModel.from_config(part.config or unet_config(template, shapes))
        channels = controlnet.config.in_channels, controlnet.config.block_out_channels[0]
        controlnet.controlnet_cond_embedding = nn.Conv2d(*channels, kernel_size=3, padding=1)
        return controlnet

    return _load(part, "ControlNet", partial(_rename_latent_hint_controlnet, template), make, dtype)


def load_text_encoder(
    part: Part, template: Config, dtype: torch.dtype, *, projection: bool = False
) -> CLIPTextModel | CLIPTextModelWithProjection:
    """From transformers' or open_clip's names, with the text projection if that is asked for."""

    def make(shapes: Tensors) -> CLIPTextModel | CLIPTextModelWithProjection:
        kind = CLIPTextModelWithProjection if projection else CLIPTextModel
        return kind(CLIPTextConfig.from_dict(part.config or clip_config(template, shapes)))

    return _load(part, "text encoder", partial(_rename_clip, projection), make, dtype)


def load_safety_network(part: Part) -> StableDiffusionSafetyChecker:
    """From the names of any version of transformers, in float32: its verdict is a matter of thousandths."""

    def make(shapes: Tensors) -> StableDiffusionSafetyChecker:
        return StableDiffusionSafetyChecker(CLIPConfig.from_dict(part.config or safety_config(shapes)))

    def rename(tensors: Tensors) -> Tensors:
        return {_short(key): tensor for key, tensor in tensors.items()}

    return _load(part, "safety checker", rename, make, torch.float32)


def _load(
    part: Part,
    role: str,
    rename: Callable[[Tensors], Tensors],
    make: Callable[[Tensors], Any],
    dtype: torch.dtype,
) -> Any:
    """Configure and check by names and shapes alone; only a complete network has its tensors read."""
    try:
        shapes = _renamed(part, role, rename, part.shapes())
        with torch.device("meta"):
            network = make(shapes)
    except KeyError as error:
        raise ModelFileError(part.path, f"is incomplete: its {role} lacks {error.args[0]}") from error
    except ModelFileError:
        raise
    except Exception as error:  # impossible shapes and settings fail in every way there is
        raise ModelFileError(part.path, f"has a {role} of a form that cannot be: {error}") from error
    wanted = network.state_dict()
    names = {_short(full): full for full in wanted}
    _check_complete(part, role, shapes, {name: wanted[full] for name, full in names.items()})
    tensors = rename(_without_extras(part.tensors()))
    ready = {full: _laid_out(tensors.pop(name), dtype) for name, full in names.items()}
    network.load_state_dict(ready, assign=True)
    _make_position_ids(network)
    return network.eval().requires_grad_(False)


def _laid_out(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Convolutions are faster in channels-last order, on GPUs and on CPUs."""
    order = torch.channels_last if tensor.ndim == 4 else torch.contiguous_format
    return tensor.to(dtype).contiguous(memory_format=order)


def _renamed(part: Part, role: str, rename: Callable[[Tensors], Tensors], tensors: Tensors) -> Tensors:
    """Renamed tensors; one that the renaming would drop is an error, since it would have had an effect."""
    tensors = _without_extras(tensors)
    renamed = {name: tensor for name, tensor in rename(dict(tensors)).items() if tensor is not None}
    kept = {id(tensor) for tensor in renamed.values()}
    # These are cut or turned on the way, so that they are not the same objects.
    changed = re.compile(r"attn_1|attn\.in_proj_|text_projection|^input_blocks\.0\.0\.weight$")
    unknown = [key for key, tensor in tensors.items() if id(tensor) not in kept and not changed.search(key)]
    if unknown:
        raise ModelFileError(
            part.path, f"has {len(unknown)} tensors that no {role} of its kind has, such as {unknown[0]}"
        )
    return renamed


def _check_complete(part: Part, role: str, found: Tensors, wanted: Mapping[str, Tensor]) -> None:
    missing = [key for key in wanted if key not in found]
    if missing:
        raise ModelFileError(
            part.path,
            f"is incomplete: its {role} lacks {len(missing)} of {len(wanted)} tensors, such as {missing[0]}",
        )
    unknown = [key for key in found if key not in wanted]
    if unknown:
        raise ModelFileError(
            part.path, f"has {len(unknown)} tensors that no {role} of its kind has, such as {unknown[0]}"
        )
    for key, tensor in wanted.items():
        if found[key].shape != tensor.shape:
            shapes = f"{list(found[key].shape)}, where {list(tensor.shape)} belongs"
            raise ModelFileError(part.path, f"does not fit together: {key} of its {role} is {shapes}")


def _without_extras(tensors: Tensors) -> Tensors:
    """Without what training programs leave beside the weights and no network uses."""
    extra = re.compile(r"(position_ids|logit_scale)$|^(loss|model_ema)\.")
    return {key: tensor for key, tensor in tensors.items() if not extra.search(key)}


def _short(name: str) -> str:
    """transformers puts the encoder's own name before those of its parts, or not, by version."""
    return name.removeprefix("text_model.").replace("vision_model.vision_model.", "vision_model.")


def _make_position_ids(network: nn.Module) -> None:
    """The one buffer of these networks that is computed and not stored."""
    for module in network.modules():
        buffer = module._buffers.get("position_ids")
        if buffer is not None:
            module._buffers["position_ids"] = torch.arange(buffer.shape[-1]).unsqueeze(0)


def _rename_unet(config: Config, tensors: Tensors) -> Tensors:
    if "conv_in.weight" in tensors:
        return tensors
    return convert_ldm_unet_checkpoint({UNET_PREFIX + key: tensor for key, tensor in tensors.items()}, config)


def _rename_vae(config: Config, tensors: Tensors) -> Tensors:
    if any(key.startswith("encoder.down_blocks.") for key in tensors):
        return tensors
    return convert_ldm_vae_checkpoint(tensors, config)


def _rename_controlnet(config: Config, tensors: Tensors) -> Tensors:
    renamed = convert_controlnet_checkpoint(tensors, config)
    # diffusers leaves SDXL's size conditioning behind.
    for ldm, ours in (
        ("label_emb.0.0.", "add_embedding.linear_1."),
        ("label_emb.0.2.", "add_embedding.linear_2."),
    ):
        renamed |= {key.replace(ldm, ours): tensor for key, tensor in tensors.items() if key.startswith(ldm)}
    return renamed


def _rename_latent_hint_controlnet(config: Config, tensors: Tensors) -> Tensors:
    hint = "controlnet_cond_embedding."
    if "conv_in.weight" in tensors:
        return {key.replace("condition_conv_in.", hint): tensor for key, tensor in tensors.items()}
    renamed = convert_controlnet_checkpoint(tensors, config)
    joined, bias = renamed["conv_in.weight"], renamed["conv_in.bias"]
    renamed["conv_in.weight"], renamed[hint + "weight"] = joined.chunk(2, dim=1)
    # The sum of the two convolutions has one bias.
    renamed[hint + "bias"] = torch.zeros_like(bias)
    return renamed


def _rename_clip(projection: bool, tensors: Tensors) -> Tensors:
    if "positional_embedding" in tensors:
        tensors = convert_open_clip_checkpoint(
            None, {"text_projection": tensors["text_projection"], **tensors}, ""
        )
    tensors = {_short(key): tensor for key, tensor in tensors.items()}
    return (
        tensors if projection else {k: t for k, t in tensors.items() if not k.startswith("text_projection")}
    )
