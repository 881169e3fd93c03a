"""The published files of CCSR: one of version 1, or ControlNet, VAE and base model of version 2."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from torch import Tensor, nn

from ..errors import ModelFileError
from ..models import TextEncoder
from ..models.architectures import Tensors, load_config
from ..models.embeddings import TextualInversion
from ..models.files import Header, read_header, read_tensors
from ..models.layouts import UNET_PREFIX, Kind, identify, identify_folder, read_json
from ..models.networks import load_latent_hint_controlnet, load_text_encoder, load_unet, load_vae
from ..models.noise_levels import make_alphas_cumprod
from ..models.parts import Part
from ..models.tokenizer import make_tokenizer
from ..prompting import encode_prompts
from ..runtime import LocalMemory, Memory, Runtime

CONTROL_PREFIX = "control_model."
VAE_PREFIX = "first_stage_model."
CONDITION_PREFIX = "cond_encoder."
TEXT_PREFIX = "cond_stage_model.model."
EMBEDDING_KEY = "cond_stage_model.emb"
"""In place of the text tower a file may hold what that makes of the empty prompt, `[1,77,width]`."""

SKIPPED = re.compile(
    # The noise schedule, which is computed, for all timesteps and for those of version 1's chain,
    r"(betas|alphas_cumprod|alphas_cumprod_prev|sqrt_(one_minus_)?alphas_cumprod|log_one_minus_alphas_cumprod"
    r"|sqrt_recipm?1?_alphas_cumprod|posterior_(variance|log_variance_clipped|mean_coef[12]))(_inter)?$"
    # the loss's weights, the discriminator and LPIPS of the decoder's training,
    r"|logvar$|decoder_loss\.|loss\."
    # and averages and bookkeeping of trainings.
    r"|model_ema\.|global_step$"
)
"""Tensors of a version 1 file that are not used, and so not read: what only a training needs."""


@dataclass(kw_only=True)
class CcsrModels:
    """CCSR's networks. They are on the CPU until a `Memory` moves them."""

    version: Literal["v1", "v2"]
    unet: UNet2DConditionModel
    controlnet: ControlNetModel
    """Takes latents as its hint."""
    vae: AutoencoderKL
    condition_vae: AutoencoderKL
    """Encodes the hint; the same object as `vae` where the encoders are equal."""
    alphas_cumprod: Tensor
    """`[T]`, float64: the signal's share of the variance at each timestep of the training schedule."""
    prediction_type: Literal["epsilon", "v_prediction"] = "epsilon"
    prompts: dict[str, Tensor] = field(default_factory=dict)
    """Prompts encoded already: text to `[1,77,width]` float32."""
    text_encoders: tuple[TextEncoder, ...] = ()
    """Version 2's, for any prompt. Version 1 knows the empty one, which is all that its programs use."""
    embeddings: dict[str, TextualInversion] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    """File names by role, without folders."""

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        encoders = (encoder.module for encoder in self.text_encoders)
        return tuple(dict.fromkeys([self.unet, self.controlnet, self.vae, self.condition_vae, *encoders]))

    @property
    def scale_factor(self) -> int:
        """Pixels per latent, along each side."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def latent_multiple(self) -> int:
        """Sides of the UNet's input, in latents, are multiples of this."""
        return 2 ** (len(self.unet.config.block_out_channels) - 1)


def load_ccsr(
    checkpoint: Path | None = None,
    *,
    controlnet: Path | None = None,
    vae: Path | None = None,
    base: Path | None = None,
    memory: Memory | None = None,
) -> CcsrModels:
    """Load CCSR from files, without any network access, in the floating point types that `memory` names.

    Version 1 is one file: `checkpoint`, as published (`real-world_ccsr.ckpt`, or `.safetensors` in float16 or
    float32). Version 2 is a `controlnet` and its `vae` (without one the base model's is used), folders or
    files, on a Stable Diffusion 2.1-base model: a diffusers folder, a single file, or a version 1 file.
    Raises ModelFileError naming file and reason, and ValueError for another combination.
    """
    memory = memory or LocalMemory()
    if checkpoint and not (controlnet or vae or base):
        return _load_v1(checkpoint, memory)
    if controlnet and base and not checkpoint:
        return _load_v2(controlnet, vae, base, memory)
    raise ValueError("give a checkpoint for CCSR v1, or a controlnet and a base model (and a vae) for v2")


def _load_v1(path: Path, memory: Memory) -> CcsrModels:
    header = read_header(path)
    _check_v1(path, header)
    vae = load_vae(Part.of_file(path, VAE_PREFIX), load_config("sd15", "vae"), memory.dtype("vae"))
    condition_vae = vae
    if not _same_encoder(path, header):
        part = _ConditionPart.of_file(path, VAE_PREFIX)
        condition_vae = load_vae(part, load_config("sd15", "vae"), memory.dtype("vae"))
    unet, controlnet = _load_denoising(
        Part.of_file(path, UNET_PREFIX), Part.of_file(path, CONTROL_PREFIX), memory
    )
    return CcsrModels(
        version="v1",
        unet=unet,
        controlnet=controlnet,
        vae=vae,
        condition_vae=condition_vae,
        alphas_cumprod=make_alphas_cumprod(path, {}),
        prompts={"": _encode_nothing(path, header, unet.config.cross_attention_dim)},
        names={"ccsr": path.name},
    )


def _load_v2(controlnet: Path, vae: Path | None, base: Path, memory: Memory) -> CcsrModels:
    source = _open_base(base)
    vae_part = _open_vae(vae) if vae else source.vae
    unet, control = _load_denoising(source.unet, _open_controlnet(controlnet), memory)
    network = load_vae(vae_part, load_config("sd15", "vae"), memory.dtype("vae"))
    files = {"ccsr": controlnet, "ccsr_vae": vae, "ccsr_base": base}
    return CcsrModels(
        version="v2",
        unet=unet,
        controlnet=control,
        vae=network,
        condition_vae=network,
        alphas_cumprod=make_alphas_cumprod(base, source.schedule),
        prediction_type=source.schedule.get("prediction_type", "epsilon"),
        text_encoders=(_load_tower(source.text, memory.dtype("text")),),
        names={role: path.name for role, path in files.items() if path},
    )


def _load_denoising(
    unet: Part, control: Part, memory: Memory
) -> tuple[UNet2DConditionModel, ControlNetModel]:
    dtype = memory.dtype("diffusion")
    networks = (
        load_unet(unet, load_config("sd21", "unet"), dtype),
        load_latent_hint_controlnet(control, load_config("sd21", "controlnet"), dtype),
    )
    for name in ("block_out_channels", "cross_attention_dim", "in_channels"):
        ours, theirs = (_plain(network.config[name]) for network in networks)
        if ours != theirs:
            raise ModelFileError(
                control.path, f"does not fit the base model: its {name} are {theirs}, not {ours}"
            )
    return networks


def _check_v1(path: Path, header: Header) -> None:
    """Every tensor of a version 1 file is used or known to be of no use."""
    first = header.get(CONTROL_PREFIX + "input_blocks.0.0.weight")
    if first is None or UNET_PREFIX + "input_blocks.0.0.weight" not in header:
        hint = ""
        if "condition_conv_in.weight" in header:
            hint = "; this is the ControlNet of CCSR v2, which is given with a base model"
        raise ModelFileError(path, f"is {identify(header).value}, not a CCSR v1 checkpoint{hint}")
    if first[1][1:2] != (8,):
        raise ModelFileError(path, "has a ControlNet that takes no latents as its hint, so it is not CCSR's")
    used = (UNET_PREFIX, CONTROL_PREFIX, VAE_PREFIX, CONDITION_PREFIX, TEXT_PREFIX, EMBEDDING_KEY)
    unknown = [key for key in header if not key.startswith(used) and not SKIPPED.match(key)]
    if unknown:
        raise ModelFileError(path, f"has {len(unknown)} tensors that no CCSR v1 has, such as {unknown[0]}")


def _same_encoder(path: Path, header: Header) -> bool:
    """Whether the hint's encoder is the VAE's, of which it was a copy when training began."""
    if not any(key.startswith(CONDITION_PREFIX) for key in header):
        return True
    theirs, ours = read_tensors(path, CONDITION_PREFIX), read_tensors(path, VAE_PREFIX + "encoder.")
    ours = {f"encoder.{key}": tensor for key, tensor in ours.items()}
    quantizer = read_tensors(path, VAE_PREFIX + "quant_conv.")
    ours |= {f"quant_conv.{key}": tensor for key, tensor in quantizer.items()}
    return theirs.keys() == ours.keys() and all(torch.equal(theirs[key], ours[key]) for key in theirs)


class _ConditionPart(Part):
    """The VAE of a version 1 file with the condition encoder in its place."""

    def tensors(self) -> Tensors:
        return super().tensors() | read_tensors(self.path, CONDITION_PREFIX)


@dataclass(frozen=True)
class _PartWithout(Part):
    """A part of which the tensors whose names begin so are of no use."""

    unused: str = " "

    def shapes(self) -> Tensors:
        return self._used(super().shapes())

    def tensors(self) -> Tensors:
        return self._used(super().tensors())

    def _used(self, tensors: Tensors) -> Tensors:
        return {key: tensor for key, tensor in tensors.items() if not key.startswith(self.unused)}


def _encode_nothing(path: Path, header: Header, width: int) -> Tensor:
    """What the text tower makes of the empty prompt: all 77 tokens, as in training."""
    if EMBEDDING_KEY in header:
        embedding = read_tensors(path, EMBEDDING_KEY)[""].float()
    elif TEXT_PREFIX + "positional_embedding" in header:
        encoder = _load_tower(_tower(path, header), torch.float32)
        # The tower is used this once, so it never goes to the device.
        models: Any = _TextOnly((encoder,))
        embedding = encode_prompts(models, [""], Runtime(LocalMemory(torch.device("cpu"))))[0].hidden
    else:
        raise ModelFileError(path, f"has neither a text encoder nor {EMBEDDING_KEY}")
    if embedding.shape != (1, 77, width):
        raise ModelFileError(
            path, f"has an empty prompt of shape {list(embedding.shape)}; [1, 77, {width}] belongs there"
        )
    return embedding


@dataclass(frozen=True)
class _TextOnly:
    text_encoders: tuple[TextEncoder, ...]
    embeddings: dict[str, TextualInversion] = field(default_factory=dict)


def _load_tower(part: Part, dtype: torch.dtype) -> TextEncoder:
    module = load_text_encoder(part, load_config("sd21", "text_encoder"), dtype)
    # OpenCLIP pads with token 0; the state is that of the last block but one, normed.
    return TextEncoder(make_tokenizer("!"), module, "last")


def _tower(path: Path, names: Iterable[str]) -> Part:
    """OpenCLIP's text tower without its last block, which Stable Diffusion 2 does not use."""
    pattern = re.compile(re.escape(TEXT_PREFIX) + r"transformer\.resblocks\.(\d+)\.")
    last = max((int(match[1]) for name in names if (match := pattern.match(name))), default=0)
    return _PartWithout(path, (path,), TEXT_PREFIX, None, f"transformer.resblocks.{last}.")


@dataclass(frozen=True)
class _Base:
    unet: Part
    vae: Part
    text: Part
    schedule: dict[str, Any]


def _open_base(path: Path) -> _Base:
    header = {} if path.is_dir() else read_header(path)
    kind = identify_folder(path) if path.is_dir() else identify(header)
    if kind is not Kind.SD2:
        raise ModelFileError(path, f"is {kind.value}; CCSR v2 needs Stable Diffusion 2.1-base")
    if path.is_dir():
        schedule = path / "scheduler" / "scheduler_config.json"
        unet, vae, text = (Part.of_folder(path / name) for name in ("unet", "vae", "text_encoder"))
        return _Base(unet, vae, text, read_json(schedule) if schedule.is_file() else {})
    return _Base(Part.of_file(path, UNET_PREFIX), Part.of_file(path, VAE_PREFIX), _tower(path, header), {})


def _open_controlnet(path: Path) -> Part:
    part = Part.of_folder(path) if path.is_dir() else Part.of_file(path)
    if "condition_conv_in.weight" not in part.shapes():
        kind = identify_folder(path) if path.is_dir() else identify(read_header(path))
        raise ModelFileError(path, f"is {kind.value}, not the ControlNet of CCSR v2")
    # Training starts from a ControlNet with an encoder for pictures, which may be left over.
    return _PartWithout(part.path, part.files, part.prefix, part.config, "controlnet_cond_embedding.")


def _open_vae(path: Path) -> Part:
    if path.is_dir():
        return Part.of_folder(path / "vae" if (path / "model_index.json").is_file() else path)
    header = read_header(path)
    for prefix in (VAE_PREFIX, ""):
        if f"{prefix}decoder.conv_in.weight" in header:
            return Part.of_file(path, prefix)
    raise ModelFileError(path, f"is {identify(header).value}, not a VAE")


def _plain(setting: object) -> object:
    return list(setting) if isinstance(setting, tuple) else setting
