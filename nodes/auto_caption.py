"""The nodes that say in words what a picture shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from torch import Tensor

from ..pipelines.caption_settings import CaptionSettings
from ..pipelines.captioner_folders import best_captioner
from . import host
from .compat import io, ui
from .missing_models import download_switch, require
from .sockets import CaptionerSocket, HostCaptioner
from .widgets import make_widget

AUTO = "auto"

FOLDERS = ("captioners", "LLM")
"""ComfyUI's model folders with captioners: our own, and that of packs for Florence-2."""

PREFERRED = "florence-2-large"
"""What `auto` stands for where there is no captioner at all."""

for _category in FOLDERS:
    host.register_folder(_category)

_loaded: WeakValueDictionary[str, HostCaptioner] = WeakValueDictionary()
"""What is in use anywhere, by version of its folder."""


class LoadCaptioner(io.ComfyNode):
    """Reads the folder on the CPU; ComfyUI moves the network to the GPU when it is used."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CreativeUpscaler_LoadCaptioner",
            display_name="Load Captioner",
            category="image/upscaling/creative",
            description="Loads a captioner (Florence-2, BLIP-2, BLIP) from models/captioners or models/LLM.",
            inputs=[
                io.Combo.Input(
                    "captioner",
                    options=[AUTO, *host.model_folders(*FOLDERS)],
                    default=AUTO,
                    tooltip="The folder of the model. auto takes the one that tells most: Florence-2, then "
                    "BLIP-2, then BLIP; the larger first.",
                ),
                download_switch(),
            ],
            outputs=[
                CaptionerSocket.Output(
                    "loaded_captioner", display_name="captioner", tooltip="For Auto Caption."
                )
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, captioner: str = AUTO, **others: object) -> str:
        """Changes when a file of the folder does, or when auto means another one."""
        folder = _find(captioner)
        return host.folder_version(folder) if folder else host.NONE

    @classmethod
    def execute(cls, captioner: str = AUTO, download_missing: bool = False) -> io.NodeOutput:
        folder = _find(captioner) or require(PREFERRED, download_missing=download_missing)
        return io.NodeOutput(_load(folder))


class AutoCaption(io.ComfyNode):
    """`pipelines.captioning.caption` with ComfyUI's pictures, memory and progress."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        settings = sorted(CaptionSettings.declared(), key=lambda parameter: parameter.advanced)
        return io.Schema(
            node_id="CreativeUpscaler_AutoCaption",
            display_name="Auto Caption",
            category="image/upscaling/creative",
            description="Says in words what each picture shows, as a prompt for Creative Upscale.",
            inputs=[
                io.Image.Input("image", tooltip="The picture, or a batch of them."),
                CaptionerSocket.Input("captioner", tooltip="From Load Captioner."),
                *[make_widget(parameter) for parameter in settings],
            ],
            outputs=[
                io.String.Output(
                    "captions",
                    display_name="caption",
                    tooltip="One for each picture of the batch, as a list.",
                    is_output_list=True,
                )
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, image: Tensor, captioner: HostCaptioner, **settings: Any) -> io.NodeOutput:
        from ..pipelines.captioning import caption  # noqa: PLC0415  transformers takes seconds to import
        from ..pipelines.runtime import Runtime  # noqa: PLC0415

        runtime = Runtime(captioner.memory, host.HostProgress(captioner.memory.device))
        wanted = CaptionSettings.from_mapping(settings)
        captions = caption(image.movedim(-1, 1), captioner.captioner, wanted, runtime)
        text = "\n".join(captions)
        host.show_text(text)
        return io.NodeOutput(captions, ui=ui.PreviewText(text))


def best_installed() -> HostCaptioner | None:
    """What `auto` stands for, or None where there is no captioner."""
    folder = _find(AUTO)
    return _load(folder) if folder else None


def _load(folder: Path) -> HostCaptioner:
    from ..pipelines.captioning import load_captioner  # noqa: PLC0415  transformers takes seconds to import

    version = host.folder_version(folder)
    loaded = _loaded.get(version)
    if loaded is None:
        memory = host.HostMemory()
        model = load_captioner(folder, memory)
        memory.adopt(*model.networks)
        loaded = _loaded[version] = HostCaptioner(model, memory)
    return loaded


def _find(name: str) -> Path | None:
    if name != AUTO:
        return host.find_folder(name)
    return best_captioner(host.find_folder(folder) for folder in host.model_folders(*FOLDERS))
