"""The flags of `ccsr`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..pipelines.ccsr.settings import CcsrSettings
from ..pipelines.parameters import Parameter


def add_ccsr_command(
    commands: Any,
    add_file_flags: Callable[[argparse.ArgumentParser], None],
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
    file: dict[str, Any] = {"type": model_file, "metavar": "FILE"}
    add("--ccsr-model", **file, help="CCSR v1: real-world_ccsr, .safetensors or .ckpt")
    add("--ccsr-controlnet", **file, help="CCSR v2: its controlnet, a folder or file")
    add("--ccsr-vae", **file, help="CCSR v2: its vae, a folder or file (default: the base model's)")
    add("--ccsr-base", **file, help="CCSR v2: Stable Diffusion 2.1-base, a folder or file, or CCSR v1's file")
    add("--device", help="cpu, cuda, cuda:1, mps (default: the best there is)")
    add(
        "--dtype",
        choices=("float32", "float16", "bfloat16"),
        help="of the diffusion networks (default: device's)",
    )
    settings = parser.add_argument_group("settings")
    for parameter in CcsrSettings.declared():
        add_setting(settings, parameter)
