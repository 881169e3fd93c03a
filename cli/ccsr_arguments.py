"""The flags of `ccsr`, and those of CCSR's files."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..pipelines.ccsr.settings import CcsrSettings
from ..pipelines.settings import Parameter
from .exit_codes import UsageError
from .file_arguments import add_device, add_dtype, add_file_flags

if TYPE_CHECKING:
    from ..pipelines.ccsr.loading import CcsrModels
    from ..pipelines.runtime import LocalMemory


@dataclass(frozen=True, kw_only=True)
class CcsrFiles:
    """The model files of CCSR."""

    ccsr_model: Path | None = None
    ccsr_controlnet: Path | None = None
    ccsr_vae: Path | None = None
    ccsr_base: Path | None = None

    @classmethod
    def given(cls, arguments: argparse.Namespace) -> CcsrFiles:
        """Those of the parsed arguments. Raises `UsageError` for files that do not belong together."""
        files = cls(**{f.name: getattr(arguments, f.name) for f in fields(cls)})
        second = (files.ccsr_controlnet, files.ccsr_vae, files.ccsr_base)
        if any(second) and (files.ccsr_model or not (files.ccsr_controlnet and files.ccsr_base)):
            raise UsageError("give --ccsr-model for CCSR v1, or --ccsr-controlnet and --ccsr-base for v2")
        return files

    def record(self) -> dict[str, Any]:
        """Their names, without folders, for the metadata of a result."""
        return {name: path.name for name, path in dataclasses.asdict(self).items() if path}

    def load(self, memory: LocalMemory) -> CcsrModels:
        """Raises ModelFileError."""
        from ..pipelines.ccsr.loading import load_ccsr  # noqa: PLC0415  diffusers takes seconds to import

        return load_ccsr(
            self.ccsr_model,
            controlnet=self.ccsr_controlnet,
            vae=self.ccsr_vae,
            base=self.ccsr_base,
            memory=memory,
        )


def add_ccsr_flags(add: Callable[..., Any], model_file: Callable[[str], Path]) -> None:
    """Add the flags of `CcsrFiles`."""
    file: dict[str, Any] = {"type": model_file, "metavar": "FILE"}
    add("--ccsr-model", **file, help="CCSR v1: real-world_ccsr, .safetensors or .ckpt")
    add("--ccsr-controlnet", **file, help="CCSR v2: its controlnet, a folder or file")
    add("--ccsr-vae", **file, help="CCSR v2: its vae, a folder or file (default: the base model's)")
    add("--ccsr-base", **file, help="CCSR v2: Stable Diffusion 2.1-base, a folder or file, or CCSR v1's file")


def add_ccsr_command(
    commands: Any,
    add_setting: Callable[[Any, Parameter], None],
    model_file: Callable[[str], Path],
) -> None:
    """Add the command to an argparse parser's `commands`; shared flags come from the functions given."""
    parser = commands.add_parser(
        "ccsr",
        help="enlarge and restore pictures faithfully with CCSR",
        description="Enlarge and restore pictures and folders of pictures with CCSR (JPEG, PNG, WebP).",
        allow_abbrev=False,
    )
    add_file_flags(parser)
    add = parser.add_argument_group("models").add_argument
    add_ccsr_flags(add, model_file)
    add_device(add)
    add_dtype(add)
    settings = parser.add_argument_group("settings")
    for parameter in CcsrSettings.declared():
        add_setting(settings, parameter)
