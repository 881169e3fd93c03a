"""The flags of `caption`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..pipelines.caption_settings import CaptionSettings
from ..pipelines.settings import Parameter
from .file_arguments import add_device, add_inputs


def add_caption_command(commands: Any, add_setting: Callable[[Any, Parameter], None]) -> None:
    """Add the command to an argparse parser's `commands`; `add_setting` adds the flag of one setting."""
    parser = commands.add_parser(
        "caption",
        help="say in words what pictures show",
        description="Say in words what pictures show, as prompts for `upscale`. With one picture, its "
        "caption is all that is printed.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add_inputs(parser)
    add(
        "--captioner",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder of a Florence-2 (of florence-community), BLIP-2 or BLIP captioning model",
    )
    add_device(add)
    add("--quiet", action="store_true", help="print only captions and errors")
    add(
        "--json", action="store_true", help="print the captions as JSON, and nothing else, on standard output"
    )
    settings = parser.add_argument_group("settings")
    for parameter in CaptionSettings.declared():
        add_setting(settings, parameter)


def read_caption_settings(arguments: argparse.Namespace) -> CaptionSettings:
    """The settings that were given, the others at their defaults. Raises `ParameterError`."""
    names = [parameter.name for parameter in CaptionSettings.declared()]
    return CaptionSettings.from_mapping(
        {name: getattr(arguments, name) for name in names if name in arguments}
    )
