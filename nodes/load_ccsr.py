"""The node that loads CCSR."""

from __future__ import annotations

from weakref import WeakValueDictionary

from . import host
from .compat import io
from .missing_models import download_switch, find_or_get, offered, version
from .sockets import CcsrSocket, HostCcsr

FOLDERS = {
    "v1_checkpoint": "checkpoints",
    "v2_controlnet": "controlnet",
    "v2_vae": "vae",
    "v2_base": "checkpoints",
}
"""ComfyUI's model folder behind each input."""

_loaded: WeakValueDictionary[tuple[str, ...], HostCcsr] = WeakValueDictionary()
"""What is in use anywhere, by version of its files."""


class LoadCcsr(io.ComfyNode):
    """Reads the files on the CPU; ComfyUI moves the networks to the GPU when they are used."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CreativeUpscaler_LoadCCSR",
            display_name="Load CCSR Model",
            category="image/upscaling/creative",
            description="Loads CCSR: version 1 from one file, or version 2 from its files and a base model.",
            inputs=[
                _file_input(
                    "v1_checkpoint",
                    "CCSR version 1: real-world_ccsr as .safetensors or .ckpt. It needs nothing beside it.",
                ),
                _file_input("v2_controlnet", "CCSR version 2: the file of its folder controlnet."),
                _file_input(
                    "v2_vae",
                    "CCSR version 2: the file of its folder vae; without one the base model's serves.",
                ),
                _file_input(
                    "v2_base",
                    "CCSR version 2: Stable Diffusion 2.1-base (v2-1_512), or the version 1 file.",
                ),
                download_switch(),
            ],
            outputs=[CcsrSocket.Output("ccsr", display_name="ccsr", tooltip="For CCSR Upscale.")],
        )

    @classmethod
    def fingerprint_inputs(cls, **values: object) -> list[str]:
        """Changes when one of the files does, so that a replaced file is read again."""
        return [version(folder, str(values.get(name) or host.NONE)) for name, folder in FOLDERS.items()]

    @classmethod
    def execute(cls, download_missing: bool = False, **names: str) -> io.NodeOutput:
        chosen = {name: names.get(name, host.NONE) for name in FOLDERS}
        for name, file in chosen.items():
            if file != host.NONE:
                find_or_get(FOLDERS[name], file, download_missing=download_missing)
        key = tuple(host.file_version(FOLDERS[name], file) for name, file in chosen.items())
        loaded = _loaded.get(key)
        if loaded is None:
            loaded = _loaded[key] = _load(chosen)
        return io.NodeOutput(loaded)


def _file_input(name: str, tooltip: str) -> io.Combo.Input:
    return io.Combo.Input(
        name, options=[host.NONE, *offered(FOLDERS[name], "ccsr")], default=host.NONE, tooltip=tooltip
    )


def _load(names: dict[str, str]) -> HostCcsr:
    from ..pipelines.ccsr.loading import load_ccsr  # noqa: PLC0415  diffusers takes seconds to import

    paths = {name: host.find_file(FOLDERS[name], file) for name, file in names.items() if file != host.NONE}
    memory = host.HostMemory()
    models = load_ccsr(
        paths.get("v1_checkpoint"),
        controlnet=paths.get("v2_controlnet"),
        vae=paths.get("v2_vae"),
        base=paths.get("v2_base"),
        memory=memory,
    )
    memory.adopt(*models.networks)
    return HostCcsr(models, memory)
