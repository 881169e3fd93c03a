"""The flags that name model files, and the files they come to."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..pipelines import starter
from ..pipelines.captioner_folders import best_captioner
from ..pipelines.parameters import UpscaleParameters
from ..pipelines.registry import find_model
from .ccsr_arguments import CcsrFiles, add_ccsr_flags
from .exit_codes import UsageError
from .file_arguments import add_device, add_dtype
from .models import default_folder
from .remote_arguments import user_folder


@dataclass(frozen=True, kw_only=True)
class ModelFiles:
    """The model files of a command."""

    checkpoint: Path | None = None
    vae: Path | None = None
    controlnet: Path | None = None
    loras: list[tuple[Path, float]] = field(default_factory=list)
    detail_lora: Path | None = None
    embeddings: list[Path] = field(default_factory=list)
    upscaler: Path | None = None
    ccsr: CcsrFiles = field(default_factory=CcsrFiles)
    captioner: Path | None = None
    safety_checker: Path | None = None

    @property
    def has_controlnet(self) -> bool:
        """Whether there is one, of its own or inside the base model's folder."""
        inside = self.checkpoint is not None and (self.checkpoint / "controlnet").is_dir()
        return self.controlnet is not None or inside

    def record(self) -> dict[str, Any]:
        """Their names, without folders, for the metadata of a result."""
        names: dict[str, Any] = {
            role: starter.name_model(path)
            for role in ("checkpoint", "vae", "controlnet", "detail_lora", "upscaler", "captioner")
            if (path := getattr(self, role))
        }
        if self.loras:
            names["loras"] = [[path.name, weight] for path, weight in self.loras]
        if self.embeddings:
            names["embeddings"] = [path.name for path in self.embeddings]
        return names | self.ccsr.record()


def add_model_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("models").add_argument
    file: dict[str, Any] = {"type": model_file, "metavar": "FILE"}
    add(
        "--checkpoint",
        **file,
        help="base model (SD 1.5 or SDXL, file or diffusers folder); its family is --model-type unless that "
        "is given (default: the starter diffusion models, where they are installed)",
    )
    add("--vae", **file, help="VAE in place of the checkpoint's")
    add(
        "--controlnet",
        **file,
        help="tile ControlNet of the same family; needed unless --shape-preservation is 0",
    )
    add(
        "--lora", type=_weighted_file, action="append", default=[], metavar="FILE[:WEIGHT]", help="repeatable"
    )
    add("--detail-lora", **file, help="LoRA whose weight is --detail")
    add("--embedding", **file, action="append", default=[], help="textual inversion; repeatable")
    add(
        "--upscaler",
        type=_upscaler,
        metavar="FILE",
        help="super-resolution model (ESRGAN and its like) to enlarge with; 'none' resamples, 'starter' is "
        "the one that ships with this (default: starter before a redraw, else none)",
    )
    add_ccsr_flags(add, model_file)
    add(
        "--captioner",
        type=Path,
        metavar="DIR",
        help="folder of a Florence-2, BLIP-2 or BLIP model that writes the prompt where --prompt is empty "
        "(default: the best in ComfyUI's models folder, if this is installed there)",
    )
    add(
        "--safety-checker",
        type=Path,
        metavar="PATH",
        help="folder or file of the Stable Diffusion safety checker (default: that in ComfyUI's models "
        "folder); without one, give --no-enable-safety-checks",
    )
    add(
        "--download-models",
        action="store_true",
        help="fetch models that the settings ending in -url name by an https address, once, as safetensors "
        "only, from Hugging Face and Civitai",
    )
    add("--model-host", action="append", default=[], metavar="HOST", help="another host to fetch from")
    add_device(add)
    add_dtype(add)


def model_file(text: str) -> Path:
    if "://" in text:
        raise argparse.ArgumentTypeError(
            f"{text} is an address; give a file, or the address to the setting that ends in -url"
        )
    return Path(text)


def model_file_or_address(text: str) -> Path | str:
    return text if "://" in text else Path(text)


def _upscaler(text: str) -> Path | str:
    return text if text in ("none", "starter") else model_file(text)


def _weighted_file(text: str) -> tuple[Path, float]:
    name, colon, weight = text.rpartition(":")
    try:
        return (model_file(name), float(weight)) if colon else (model_file(text), 1.0)
    except ValueError:
        return model_file(text), 1.0


def find_model_files(
    arguments: argparse.Namespace, parameters: UpscaleParameters, *, starter_suits: bool
) -> ModelFiles:
    """The model files that the parsed arguments of `upscale` and its settings name, or that stand in.

    `starter_suits`: whether the starter may be the base model. Addresses are fetched here.
    Raises `UsageError`, and for an address `DownloadError` and `ModelFileError`.
    """
    ccsr = CcsrFiles.given(arguments)
    upscaler = _find_upscaler(arguments.upscaler, parameters, ccsr)
    common = {"upscaler": upscaler, "ccsr": ccsr}
    if parameters.enable_safety_checks:
        common["safety_checker"] = arguments.safety_checker or _installed_checker()
    if parameters.creativity == 0:  # nothing is redrawn
        return ModelFiles(**common)
    if not parameters.prompt.strip():
        common["captioner"] = arguments.captioner or _installed_captioner()
    checkpoint, loras, embeddings = arguments.checkpoint, list(arguments.lora), list(arguments.embedding)
    if parameters.base_model_url:
        if checkpoint:
            raise UsageError("--checkpoint and --base-model-url are the same; give one of them")
        checkpoint = _fetched(parameters.base_model_url, arguments)
    if parameters.additional_lora_url:
        lora = _fetched(parameters.additional_lora_url, arguments)
        loras.append((lora, parameters.additional_lora_scale))
    if parameters.additional_embedding_url:
        embeddings.append(_fetched(parameters.additional_embedding_url, arguments))
    others = (arguments.vae, arguments.controlnet, arguments.detail_lora, *loras, *embeddings)
    if not checkpoint and starter_suits and not any(others):  # those are made for another base model
        checkpoint = starter.find_diffusion()
    return ModelFiles(
        checkpoint=checkpoint,
        vae=arguments.vae,
        controlnet=arguments.controlnet,
        loras=loras,
        detail_lora=arguments.detail_lora,
        embeddings=embeddings,
        **common,
    )


def _fetched(place: str, arguments: argparse.Namespace) -> Path:
    """The file at a path, or at an address if the user allows that."""
    if "://" not in place:
        return Path(place)
    from huggingface_hub import get_token  # noqa: PLC0415

    from ..pipelines.model_urls import model_policy, resolve_url  # noqa: PLC0415
    from .progress import Display  # noqa: PLC0415  imports torch

    policy = None
    if arguments.download_models:
        tokens = {"huggingface.co": get_token(), "civitai.com": os.environ.get("CIVITAI_API_TOKEN")}
        policy = model_policy(arguments.model_host, {host: token for host, token in tokens.items() if token})
    display = Display(1, quiet=arguments.quiet)
    try:
        return resolve_url(place, policy, user_folder(None, os.environ) / "models", display)
    finally:
        display.close()


def _installed_captioner() -> Path | None:
    folder = default_folder()
    tops = [folder / name for name in ("captioners", "LLM")] if folder else []
    return best_captioner(path.parent for top in tops for path in sorted(top.rglob("config.json")))


def _installed_checker() -> Path | None:
    folder = default_folder()
    if folder is None:
        return None
    model = find_model("safety-checker")
    place = model.location(folder / model.folder)
    return place if place.exists() else None


def _find_upscaler(asked: Path | str | None, parameters: UpscaleParameters, ccsr: CcsrFiles) -> Path | None:
    if isinstance(asked, Path):
        return asked
    found = starter.find_upscaler()
    if asked == "starter" and found is None:
        raise UsageError("--upscaler starter: the starter models are not installed; give a file, or none")
    if asked == "starter":
        return found
    # Creativity 0 promises a plain resize, and CCSR does this work where it is given.
    by_ccsr = bool(ccsr.record()) and not parameters.skip_ccsr
    return found if asked is None and parameters.creativity > 0 and not by_ccsr else None
