"""The nodes that check pictures for safety."""

from __future__ import annotations

import logging
from pathlib import Path
from weakref import WeakValueDictionary

from torch import Tensor

from . import host
from .compat import io
from .missing_models import download_switch, require
from .sockets import HostSafetyChecker, SafetySocket

AUTO = "auto"

FOLDER = "safety_checkers"
host.register_folder(FOLDER)

_loaded: WeakValueDictionary[str, HostSafetyChecker] = WeakValueDictionary()
"""What is in use anywhere, by version of its files."""


class LoadSafetyChecker(io.ComfyNode):
    """Reads the checker on the CPU; ComfyUI moves it to the GPU when it is used."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CreativeUpscaler_LoadSafetyChecker",
            display_name="Load Safety Checker",
            category="image/upscaling/creative",
            description="Loads the Stable Diffusion safety checker from models/safety_checkers.",
            inputs=[
                io.Combo.Input(
                    "safety_checker",
                    options=[AUTO, *host.model_folders(FOLDER, files=True)],
                    default=AUTO,
                    tooltip="CompVis/stable-diffusion-safety-checker: its folder, or its weights alone. "
                    "auto takes the first there is.",
                ),
                download_switch(),
            ],
            outputs=[
                SafetySocket.Output("checker", display_name="safety_checker", tooltip="For Safety Check.")
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, safety_checker: str = AUTO, **others: object) -> str:
        """Changes when a file of the checker does, or when auto means another one."""
        path = _find(safety_checker)
        return host.folder_version(path) if path else host.NONE

    @classmethod
    def execute(cls, safety_checker: str = AUTO, download_missing: bool = False) -> io.NodeOutput:
        path = _find(safety_checker) or require("safety-checker", download_missing=download_missing)
        return io.NodeOutput(_load(path))


class SafetyCheck(io.ComfyNode):
    """`pipelines.safety.check_safety` with ComfyUI's pictures, memory and progress."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CreativeUpscaler_SafetyCheck",
            display_name="Safety Check",
            category="image/upscaling/creative",
            description="Replaces pictures that the safety checker flags with black ones, and says which.",
            inputs=[
                io.Image.Input("image", tooltip="The picture, or a batch of them; it is not modified."),
                SafetySocket.Input("safety_checker", tooltip="From Load Safety Checker."),
            ],
            outputs=[
                io.Image.Output(
                    "checked", display_name="image", tooltip="The pictures, black where one was flagged."
                ),
                io.Boolean.Output(
                    "flags",
                    display_name="flagged",
                    tooltip="For each picture of the batch whether it was flagged, as a list.",
                    is_output_list=True,
                ),
            ],
        )

    @classmethod
    def execute(cls, image: Tensor, safety_checker: HostSafetyChecker) -> io.NodeOutput:
        from ..pipelines.runtime import Runtime  # noqa: PLC0415
        from ..pipelines.safety import check_safety  # noqa: PLC0415  diffusers takes seconds to import

        runtime = Runtime(safety_checker.memory, host.HostProgress(safety_checker.memory.device))
        result = check_safety(image.movedim(-1, 1), safety_checker.checker, runtime)
        hits = [str(number) for number, flag in enumerate(result.flags, 1) if flag]
        if hits:
            text = f"flagged and black: picture {', '.join(hits)} of {len(result.flags)}"
            logging.warning("Safety Check: %s", text)
            host.show_text(text)
        return io.NodeOutput(result.image.movedim(1, -1).to(host.picture_device()), result.flags)


def first_installed() -> HostSafetyChecker | None:
    """What `auto` stands for, or None where there is no checker."""
    path = _find(AUTO)
    return _load(path) if path else None


def _load(path: Path) -> HostSafetyChecker:
    from ..pipelines.safety import load_safety_checker  # noqa: PLC0415  diffusers takes seconds to import

    version = host.folder_version(path)
    loaded = _loaded.get(version)
    if loaded is None:
        checker, memory = load_safety_checker(path), host.HostMemory()
        memory.adopt(*checker.networks)
        loaded = _loaded[version] = HostSafetyChecker(checker, memory)
    return loaded


def _find(name: str) -> Path | None:
    if name == AUTO:
        name = next(iter(host.model_folders(FOLDER, files=True)), "")
    return host.find_folder(name) if name else None
