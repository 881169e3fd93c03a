"""The one door to ComfyUI's internals: devices and memory, progress and interrupts, folders."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import comfy.latent_formats
import comfy.model_management as management
import comfy.utils
import folder_paths
import latent_preview
import torch
from comfy.model_patcher import ModelPatcher
from comfy_execution.utils import get_executing_context
from server import PromptServer
from torch import Tensor, nn

from ..pipelines.runtime import LocalMemory, Role

NONE = "none"
"""The entry of a file list that stands for no file."""

STABLE_DIFFUSION_CHANNELS = 4

PREVIEW_SIDE = 128
"""Latents on the longer side of a preview picture, which ComfyUI shows at 512 px."""


def file_names(folder: str) -> list[str]:
    """The files a user has in one of ComfyUI's model folders, for a list to choose from."""
    return folder_paths.get_filename_list(folder)


def find_file(folder: str, name: str) -> Path:
    """The path of a listed file. Raises `FileNotFoundError` for any other name."""
    return Path(folder_paths.get_full_path_or_raise(folder, name))


def file_version(folder: str, name: str) -> str:
    """Changes when the file does: its path, size and time of last change."""
    if name == NONE:
        return NONE
    path = find_file(folder, name)
    state = path.stat()
    return f"{path}|{state.st_size}|{state.st_mtime_ns}"


def register_folder(category: str) -> None:
    """Give ComfyUI's models folder one more kind of models, which users can then also keep elsewhere."""
    folder_paths.add_model_folder_path(category, str(Path(folder_paths.models_dir) / category))


def models_folders(category: str) -> list[Path]:
    """Where ComfyUI looks for one kind of models."""
    if category not in folder_paths.folder_names_and_paths:
        return [Path(folder_paths.models_dir) / category]
    return [Path(folder) for folder in folder_paths.get_folder_paths(category)]


def models_folder(category: str) -> Path:
    """Where a new model of this kind belongs: in ComfyUI's own models folder, if that is looked in."""
    own = Path(folder_paths.models_dir) / category
    folders = models_folders(category)
    return own if own in folders else folders[0]


def model_folders(*categories: str, files: bool = False) -> list[str]:
    """The folders that hold a model each, as `category/name`; with `files` single files of weights too."""
    found = [f"{category}/{name}" for category in categories for name in _entries(category, files)]
    return sorted(dict.fromkeys(found), key=str.lower)


def find_folder(name: str) -> Path:
    """The path of what `model_folders` lists. Raises `FileNotFoundError` for any other name."""
    category, _, own = name.partition("/")
    path = _entries(category, True).get(own) if category in folder_paths.folder_names_and_paths else None
    if path is None:
        raise FileNotFoundError(f"there is no model {name} in ComfyUI's models folder")
    return path


def folder_version(path: Path) -> str:
    """Changes when a file of a model folder, or the file itself, does."""
    files = sorted(file for file in path.iterdir() if file.is_file()) if path.is_dir() else [path]
    states = [(file.name, file.stat()) for file in files]
    return "|".join([str(path), *(f"{name}|{state.st_size}|{state.st_mtime_ns}" for name, state in states)])


def _entries(category: str, files: bool) -> dict[str, Path]:
    entries: dict[str, Path] = {}
    for top in map(Path, folder_paths.get_folder_paths(category)):
        for folder, inner, names in os.walk(top, followlinks=True):
            here = Path(folder)
            if "config.json" in names and here != top:
                entries.setdefault(here.relative_to(top).as_posix(), here)
                inner.clear()
                continue
            inner[:] = [name for name in inner if not name.startswith(".")]
            weights = [n for n in names if Path(n).suffix in folder_paths.supported_pt_extensions]
            for name in weights if files else []:
                entries.setdefault((here / name).relative_to(top).as_posix(), here / name)
    return entries


def show_text(text: str) -> None:
    """Show a text on the node that is being executed."""
    context = get_executing_context()
    if context is not None:
        PromptServer.instance.send_progress_text(text, context.node_id)


def picture_device() -> torch.device:
    """Where pictures between nodes are kept."""
    return management.intermediate_device()


class _Network(nn.Module):
    """Holds a network for ComfyUI, which sets `device` and other attributes on what it manages.

    diffusers and transformers modules have a read-only property of that name.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network


class HostMemory:
    """`Memory` by ComfyUI's model management: it can evict our networks, and we its.

    One `ModelPatcher` for each network, alive as long as this object: when the last user lets go of it and
    of its networks, ComfyUI notices and frees them. A network that is not ours (an upscale model from a
    socket) is only a visitor: it is moved to the device when asked for and back by `dismiss_visitors`.
    """

    def __init__(self) -> None:
        self.device: torch.device = management.get_torch_device()
        self._patchers: dict[nn.Module, ModelPatcher] = {}
        self._visitors: list[nn.Module] = []

    def adopt(self, *networks: nn.Module) -> None:
        """Put these networks, now on the CPU, under ComfyUI's management."""
        offload = management.unet_offload_device()
        for network in networks:
            self._patchers[network] = ModelPatcher(_Network(network), self.device, offload)

    def dtype(self, role: Role) -> torch.dtype:
        """As ComfyUI's own models of this kind and its command line say.

        Where it would store one type and compute in another, this is the one to compute in, for our
        networks do not cast their weights.
        """
        if role == "vae":
            return management.vae_dtype(self.device, [torch.bfloat16, torch.float32])
        if role == "text":
            stored = management.text_encoder_dtype(self.device)
        else:
            stored = management.unet_dtype(self.device)
        return management.unet_manual_cast(stored, self.device) or stored

    def load(self, *modules: nn.Module, activation_bytes: int = 0) -> None:
        patchers = [self._patchers[module] for module in modules if module in self._patchers]
        # Anything but a full load leaves part of a network that is not made of ComfyUI's layers on the CPU.
        management.load_models_gpu(patchers, memory_required=activation_bytes, force_full_load=True)
        for module in modules:
            if module not in self._patchers:
                management.free_memory(management.module_size(module) + activation_bytes, self.device)
                self._visitors.append(module)
            module.to(self.device)

    def dismiss_visitors(self) -> None:
        """Move networks that are not ours off the device."""
        while self._visitors:
            self._visitors.pop().to(management.unet_offload_device())

    def free_bytes(self) -> int:
        return management.get_free_memory(self.device)

    def is_out_of_memory(self, error: BaseException) -> bool:
        # Newer versions of ComfyUI know of more kinds.
        is_oom = getattr(management, "is_oom", None)
        return LocalMemory(self.device).is_out_of_memory(error) or (is_oom is not None and is_oom(error))

    def release(self) -> None:
        management.soft_empty_cache()


def check_interrupted(stage: str, done: int, total: int, preview: Tensor | None = None) -> None:
    """A `Progress` that shows nothing, for where ComfyUI shows it: raises when the user has asked to stop."""
    management.throw_exception_if_processing_interrupted()


def total_bytes(device: torch.device) -> int:
    """Of memory that a device has, whoever uses it."""
    return management.get_total_memory(device)


class HostProgress:
    """`Progress` as the bar, the line of text and the preview picture of the node that is being executed.

    Raises ComfyUI's `InterruptProcessingException` when the user has asked to stop.
    """

    def __init__(
        self,
        device: torch.device,
        model_type: str | None = None,
        colors: tuple[Tensor, Tensor] | None = None,
        latent_format: Any = None,
    ) -> None:
        formats = {"SD_1_5": comfy.latent_formats.SD15, "SDXL": comfy.latent_formats.SDXL}
        # None unless the user has turned previews on, or where there are no latents to show.
        self._previewer = None
        if colors is not None:
            self._previewer = latent_preview.get_previewer(device, _latents_shown_as(*colors))
        elif latent_format is not None:
            self._previewer = latent_preview.get_previewer(device, latent_format)
        elif model_type:
            self._previewer = latent_preview.get_previewer(device, formats[model_type]())
        self._bar = comfy.utils.ProgressBar(1)
        self._stage = ""

    def __call__(self, stage: str, done: int, total: int, preview: Tensor | None = None) -> None:
        management.throw_exception_if_processing_interrupted()
        if stage != self._stage:
            self._stage = stage
            show_text(stage)
        picture = None
        if preview is not None and self._previewer is not None:
            picture = self._previewer.decode_latent_to_preview_image("JPEG", _shrink(preview[:1]))
        self._bar.update_absolute(done, total, picture)


@contextmanager
def visitors_dismissed(memory: HostMemory) -> Iterator[None]:
    """Whatever happens, networks that are not ours leave the device at the end."""
    try:
        yield
    finally:
        memory.dismiss_visitors()


def preview_colors(vae: Any, memory: HostMemory) -> tuple[Tensor, Tensor] | None:
    """Factors and bias for `HostProgress` to show latents that are not Stable Diffusion's; None for those."""
    from ..pipelines.autoencoding import LatentCodec  # noqa: PLC0415  diffusers takes seconds to import
    from ..pipelines.previews import fit_colors  # noqa: PLC0415
    from ..pipelines.runtime import Runtime  # noqa: PLC0415

    if vae.config.latent_channels == STABLE_DIFFUSION_CHANNELS:
        return None
    return fit_colors(LatentCodec(vae, Runtime(memory)))


def _latents_shown_as(factors: Tensor, bias: Tensor) -> comfy.latent_formats.LatentFormat:
    """Latents that ComfyUI does not know, `[C,3]` and `[3]` as `fit_colors` finds them."""
    shown = comfy.latent_formats.LatentFormat()
    shown.latent_channels = len(factors)
    shown.latent_rgb_factors = factors.tolist()
    shown.latent_rgb_factors_bias = bias.tolist()
    return shown


def _shrink(latents: Tensor) -> Tensor:
    ratio = PREVIEW_SIDE / max(latents.shape[-2:])
    if ratio >= 1:
        return latents
    return nn.functional.interpolate(latents.float(), scale_factor=ratio, mode="area")
