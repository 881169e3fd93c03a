"""The node that loads a base model and what goes with it."""

from __future__ import annotations

from weakref import WeakValueDictionary

from ..pipelines.parameters import UpscaleParameters
from . import host
from .compat import advanced, io
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
                    options=host.file_names("checkpoints"),
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
            ],
            outputs=[Models.Output("models", display_name="models", tooltip="For Creative Upscale.")],
        )

    @classmethod
    def fingerprint_inputs(cls, **values: object) -> list[str]:
        """Changes when one of the files does, so that a replaced file is read again."""
        return [
            host.file_version(folder, str(values.get(name) or host.NONE)) for name, folder in FOLDERS.items()
        ]

    @classmethod
    def execute(
        cls,
        checkpoint: str,
        controlnet: str,
        detail_lora: str,
        embedding: str = host.NONE,
        vae: str = host.NONE,
        model_type: str = AUTO,
    ) -> io.NodeOutput:
        names = {
            "checkpoint": checkpoint,
            "controlnet": controlnet,
            "vae": vae,
            "detail_lora": detail_lora,
            "embedding": embedding,
        }
        versions = [host.file_version(FOLDERS[name], file) for name, file in names.items()]
        key = (*versions, model_type)
        loaded = _loaded.get(key)
        if loaded is None:
            loaded = _loaded[key] = _load(names, model_type)
        return io.NodeOutput(loaded)


def _file_input(name: str, tooltip: str, *, rare: bool = False) -> io.Combo.Input:
    options = [host.NONE, *host.file_names(FOLDERS[name])]
    widget = io.Combo.Input(name, options=options, default=host.NONE, optional=rare, tooltip=tooltip)
    return advanced(widget) if rare else widget


def _load(names: dict[str, str], model_type: str) -> HostModels:
    from ..pipelines.models import load_models  # noqa: PLC0415  diffusers takes seconds to import

    paths = {name: host.find_file(FOLDERS[name], file) for name, file in names.items() if file != host.NONE}
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
    return HostModels(models, memory)
