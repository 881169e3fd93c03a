"""The node that loads a base model and what goes with it."""

from __future__ import annotations

from pathlib import Path
from weakref import WeakValueDictionary

from ..pipelines.parameters import UpscaleParameters
from ..pipelines.starter import BUILT_IN, DIFFUSION, Limits, find_diffusion, find_upscaler
from . import host
from .compat import advanced, io
from .missing_models import download_switch, find_or_get, offered, version
from .sockets import HostModels, Models

AUTO = "auto"

FOLDERS = {
    "checkpoint": "checkpoints",
    "controlnet": "controlnet",
    "vae": "vae",
    "detail_lora": "loras",
    "embedding": "embeddings",
}
"""ComfyUI's model folder behind each input."""

_loaded: WeakValueDictionary[tuple[object, ...], HostModels] = WeakValueDictionary()
"""What is in use anywhere, by files and settings: two nodes that ask for the same share it."""


class LoadModels(io.ComfyNode):
    """Reads the files on the CPU; ComfyUI moves the networks to the GPU when they are used."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        model_type = next(p for p in UpscaleParameters.declared() if p.name == "model_type")
        return io.Schema(
            node_id="CreativeUpscaler_LoadModels",
            display_name="Load Creative Upscale Models",
            category="image/upscaling/creative",
            description="Loads an SD1.5 or SDXL checkpoint, a tile ControlNet and what goes with them.",
            inputs=[
                io.Combo.Input(
                    "checkpoint",
                    options=_checkpoints(),
                    tooltip="Base model: an SD1.5 or SDXL checkpoint of the style the result should have.",
                ),
                _file_input(
                    "controlnet",
                    "Tile ControlNet of the same family (for SDXL also a Union one); it holds the shapes. "
                    "Without one, shape_preservation must be 0.",
                ),
                _file_input(
                    "detail_lora",
                    "LoRA that adds detail. Its weight is the detail setting of the upscale node; "
                    "without one, detail works by other means.",
                ),
                _file_input(
                    "embedding", "Textual inversion. Its file name becomes a word for the prompts.", rare=True
                ),
                _file_input("vae", "VAE in place of the one in the checkpoint.", rare=True),
                advanced(
                    io.Combo.Input(
                        "model_type",
                        options=[AUTO, *model_type.choices],
                        default=AUTO,
                        optional=True,
                        tooltip="auto reads it from the checkpoint; else the other family is refused.",
                    )
                ),
                advanced(
                    io.Combo.Input(
                        "pre_upscaler",
                        options=[BUILT_IN, host.NONE],
                        default=BUILT_IN,
                        optional=True,
                        tooltip="Enlarges before a redraw where no upscale model is connected: the small "
                        "network that ships with this pack, or none (plain resampling).",
                    )
                ),
                download_switch(),
            ],
            outputs=[Models.Output("models", display_name="models", tooltip="For Creative Upscale.")],
        )

    @classmethod
    def fingerprint_inputs(cls, **values: object) -> list[str]:
        """Changes when one of the files does, so that a replaced file is read again."""
        return [_version(folder, str(values.get(name) or host.NONE)) for name, folder in FOLDERS.items()]

    @classmethod
    def execute(
        cls,
        checkpoint: str,
        controlnet: str,
        detail_lora: str,
        embedding: str = host.NONE,
        vae: str = host.NONE,
        model_type: str = AUTO,
        pre_upscaler: str = BUILT_IN,
        download_missing: bool = False,
    ) -> io.NodeOutput:
        names = {
            "checkpoint": checkpoint,
            "controlnet": controlnet,
            "vae": vae,
            "detail_lora": detail_lora,
            "embedding": embedding,
        }
        for name, file in names.items():
            if file not in (host.NONE, BUILT_IN):
                find_or_get(FOLDERS[name], file, download_missing=download_missing)
        versions = [_version(FOLDERS[name], file) for name, file in names.items()]
        key = (*versions, model_type, pre_upscaler)
        loaded = _loaded.get(key)
        if loaded is None:
            loaded = _loaded[key] = _load(names, model_type, pre_upscaler)
        return io.NodeOutput(loaded)


def _file_input(name: str, tooltip: str, *, rare: bool = False) -> io.Combo.Input:
    options = [host.NONE, *offered(FOLDERS[name])]
    widget = io.Combo.Input(name, options=options, default=host.NONE, optional=rare, tooltip=tooltip)
    return advanced(widget) if rare else widget


def _checkpoints() -> list[str]:
    built_in = [BUILT_IN] if find_diffusion() else []
    return [*built_in, *offered("checkpoints")]


def find_model(role: str, name: str) -> Path:
    """What was chosen as checkpoint, controlnet, ... Raises `FileNotFoundError` for what is not there."""
    built_in = role == "checkpoint" and name == BUILT_IN and find_diffusion() is not None
    return DIFFUSION if built_in else host.find_file(FOLDERS[role], name)


def _version(folder: str, name: str) -> str:
    return name if name == BUILT_IN else version(folder, name)


def _load(names: dict[str, str], model_type: str, pre_upscaler: str) -> HostModels:
    from ..pipelines.models import load_models  # noqa: PLC0415  diffusers takes seconds to import
    from ..pipelines.pre_upscaling import load_upscaler  # noqa: PLC0415

    paths = {name: find_model(name, file) for name, file in names.items() if file != host.NONE}
    upscaler = find_upscaler() if pre_upscaler == BUILT_IN else None
    memory = host.HostMemory()
    models = load_models(
        paths["checkpoint"],
        model_type=None if model_type == AUTO else model_type,
        vae=paths.get("vae"),
        controlnet=paths.get("controlnet"),
        detail_lora=paths.get("detail_lora"),
        embeddings=[paths["embedding"]] if "embedding" in paths else [],
        memory=memory,
    )
    memory.adopt(*models.networks)
    return HostModels(
        models,
        memory,
        limits=Limits.read(paths["checkpoint"]),
        upscaler=load_upscaler(upscaler) if upscaler else None,
    )
