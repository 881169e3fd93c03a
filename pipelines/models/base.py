"""The models of a creative upscale, loaded from files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from diffusers import AutoencoderKL, ControlNetModel, ControlNetUnionModel, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from ..errors import ModelFileError
from ..planning import ModelShape
from ..runtime import LocalMemory, Memory
from ..starter import name_model
from .architectures import load_config
from .controlnets import load_controlnet
from .embeddings import TextualInversion, read_embedding
from .files import read_header
from .layouts import Kind, identify, identify_folder
from .loras import Lora, LoraStack, read_lora
from .networks import load_text_encoder, load_unet, load_vae
from .noise_levels import make_alphas_cumprod
from .parts import Part
from .sources import VAE_PREFIX, BaseSource, ModelType, open_base
from .tokenizer import make_tokenizer, read_tokenizer


@dataclass
class TextEncoder:
    """A text encoder and how its words are made and read."""

    tokenizer: CLIPTokenizer
    module: CLIPTextModel | CLIPTextModelWithProjection
    layer: Literal["last", "penultimate"]
    """The state that conditions the UNet: the last one, normed (SD1.5), or the one before it (SDXL)."""


@dataclass(kw_only=True)
class CreativeModels:
    """A base model and what goes with it. Networks are on the CPU until a `Memory` moves them."""

    model_type: ModelType
    unet: UNet2DConditionModel
    vae: AutoencoderKL
    text_encoders: tuple[TextEncoder, ...]
    """CLIP-L, and for SDXL CLIP-G after it."""
    controlnet: ControlNetModel | ControlNetUnionModel | None
    alphas_cumprod: Tensor
    """`[T]`, float64: the signal's share of the variance at each timestep of the training schedule."""
    prediction_type: Literal["epsilon", "v_prediction"]
    loras: LoraStack
    applied: tuple[tuple[Lora, float], ...] = ()
    """The LoRAs of these models with their weights, beside the detail LoRA."""
    detail_lora: Lora | None = None
    """Applied with the setting `detail` as its weight."""
    embeddings: dict[str, TextualInversion] = field(default_factory=dict)
    """By the word that stands for them in prompts."""
    names: dict[str, str] = field(default_factory=dict)
    """File names by role, without folders, for a result's metadata; those of `applied` it has itself."""

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        encoders = (encoder.module for encoder in self.text_encoders)
        return (self.unet, self.vae, *encoders, *([self.controlnet] if self.controlnet is not None else []))

    @property
    def shape(self) -> ModelShape:
        """What the plan of an upscale depends on."""
        return ModelShape.of_configs(self.model_type, self.unet.config, self.vae.config)

    @property
    def scale_factor(self) -> int:
        """Pixels per latent, along each side."""
        return self.shape.scale_factor

    @property
    def latent_multiple(self) -> int:
        """Sides of the UNet's input, in latents, are multiples of this."""
        return self.shape.latent_multiple

    @property
    def tile_range(self) -> tuple[int, int]:
        """Sides of the smallest and the largest tile, in latents, that the UNet draws well."""
        return self.shape.tile_range

    def apply_loras(self, detail: float = 0.0) -> None:
        """Bring the weights to what `applied`, and the detail LoRA with weight `detail`, make of them.

        Raises ModelFileError if a LoRA does not fit; the weights are then as before.
        """
        extra = () if self.detail_lora is None else ((self.detail_lora, detail),)
        self.loras.apply((*self.applied, *extra))


def load_models(
    base: Path,
    *,
    model_type: str | None = None,
    vae: Path | None = None,
    controlnet: Path | None = None,
    loras: Sequence[tuple[Path, float]] = (),
    detail_lora: Path | None = None,
    embeddings: Sequence[Path] = (),
    memory: Memory | None = None,
) -> CreativeModels:
    """Load models from files, without any network access, in the floating point types that `memory` names.

    `base` is an SD1.5 or SDXL model: a single file (`.safetensors`, or `.ckpt` of weights only) or a
    diffusers folder. `vae` and `controlnet` may be either, too; they replace those of the base model (a
    folder may hold a ControlNet). The networks are on the CPU, in eval mode, without gradients, their
    convolutions in channels-last order, the LoRAs applied.
    Raises ModelFileError naming file and reason for each file that is missing, damaged, unsafe, incomplete,
    of another kind, or of another family than `model_type` ("SD_1_5" or "SDXL") or the base model.
    """
    memory = memory or LocalMemory()
    source = open_base(base)
    if model_type not in (None, source.model_type):
        raise ModelFileError(
            base, f"is {source.kind.value} ({source.model_type}), not {model_type}; set model_type to match"
        )
    unet = load_unet(source.unet, load_config(source.family, "unet"), memory.dtype("diffusion"))
    hint = controlnet or source.controlnet
    encoders = tuple(_load_encoders(source, memory.dtype("text")))
    models = CreativeModels(
        model_type=source.model_type,
        unet=unet,
        vae=_load_vae(source, vae, unet, memory.dtype("vae")),
        text_encoders=encoders,
        controlnet=load_controlnet(hint, unet, memory.dtype("diffusion")) if hint else None,
        alphas_cumprod=make_alphas_cumprod(base, source.schedule),
        prediction_type=source.schedule["prediction_type"],
        loras=LoraStack({"unet": unet, **_by_role(encoders)}),
        applied=tuple((read_lora(path), weight) for path, weight in loras),
        detail_lora=read_lora(detail_lora) if detail_lora else None,
    )
    widths = dict(zip(("clip_l", "clip_g"), (e.module.config.hidden_size for e in encoders), strict=False))
    for path in embeddings:
        embedding = read_embedding(path, widths)
        models.embeddings[embedding.token] = embedding
    _check_hint(hint, models)
    files = {"base": base, "vae": vae, "controlnet": controlnet, "detail_lora": detail_lora}
    models.names = {role: name_model(path) for role, path in files.items() if path}
    if embeddings:
        models.names["embeddings"] = ", ".join(path.name for path in embeddings)
    models.apply_loras()
    return models


def _load_encoders(source: BaseSource, dtype: torch.dtype) -> list[TextEncoder]:
    sdxl = source.kind is Kind.SDXL
    encoders = []
    for number, part in enumerate(source.text_encoders):
        second = number == 1
        template = load_config(source.family, "text_encoder_2" if second else "text_encoder")
        module = load_text_encoder(part, template, dtype, projection=second)
        pad_token, folder = "!" if second else "<|endoftext|>", source.tokenizers[number]
        tokenizer = read_tokenizer(folder, pad_token) if folder else make_tokenizer(pad_token)
        if max(tokenizer.get_vocab().values()) >= module.config.vocab_size:
            raise ModelFileError(
                part.path,
                f"knows {module.config.vocab_size} words, fewer than its tokenizer ({len(tokenizer)})",
            )
        encoders.append(TextEncoder(tokenizer, module, "penultimate" if sdxl else "last"))
    return encoders


def _load_vae(
    source: BaseSource, given: Path | None, unet: UNet2DConditionModel, dtype: torch.dtype
) -> AutoencoderKL:
    part = _open_vae(given) if given else source.vae
    if part is None:
        raise ModelFileError(source.path, "has no VAE inside; choose one beside it")
    vae = load_vae(part, load_config(source.family, "vae"), dtype)
    ours, theirs = unet.config.in_channels, vae.config.latent_channels
    if ours != theirs:
        raise ModelFileError(
            part.path, f"is a VAE of {theirs} latent channels, and {source.path.name} needs one of {ours}"
        )
    return vae


def _check_hint(path: Path | None, models: CreativeModels) -> None:
    """A ControlNet's hint must shrink to the size of the latents."""
    if path is None or models.controlnet is None:
        return
    factor = 2 ** (len(models.controlnet.config.conditioning_embedding_out_channels) - 1)
    if factor != models.scale_factor:
        raise ModelFileError(
            path, f"shrinks its hint {factor} times, and the VAE shrinks pictures {models.scale_factor} times"
        )


def _open_vae(path: Path) -> Part:
    if path.is_dir():
        folder = path / "vae" if (path / "model_index.json").is_file() else path
        if (kind := identify_folder(folder)) is Kind.VAE:
            return Part.of_folder(folder)
        raise ModelFileError(path, f"is {kind.value}, not a VAE")
    header = read_header(path)
    # A whole checkpoint serves as well: its VAE is taken.
    for prefix in (VAE_PREFIX, ""):
        if f"{prefix}decoder.conv_in.weight" in header:
            return Part.of_file(path, prefix)
    raise ModelFileError(path, f"is {identify(header).value}, not a VAE")


def _by_role(encoders: Sequence[TextEncoder]) -> dict[str, nn.Module]:
    names = ("text_encoder", "text_encoder_2")
    return {name: encoder.module for name, encoder in zip(names, encoders, strict=False)}
