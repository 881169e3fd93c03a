"""Flags, derived from the declared settings, and what they ask for."""

from __future__ import annotations

import argparse
import dataclasses
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ..pipelines import starter
from ..pipelines.parameters import PRESETS, UpscaleParameters
from ..pipelines.settings import Parameter
from .caption_arguments import add_caption_command
from .ccsr_arguments import add_ccsr_command
from .exit_codes import MEANINGS, UsageError
from .file_arguments import FileRequest, add_file_flags
from .metadata import read_record
from .model_arguments import (
    ModelFiles,
    add_model_flags,
    find_model_files,
    model_file,
    model_file_or_address,
)
from .models import add_models_command
from .table import default_text

SIZE_SETTINGS = {"scale", "width", "height"}


@dataclass(frozen=True, kw_only=True)
class Request(FileRequest):
    """One `upscale` command."""

    parameters: UpscaleParameters
    models: ModelFiles


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    parser = argparse.ArgumentParser(
        prog="creative-upscaler",
        description="Creative upscaling: pictures are redrawn larger by a diffusion model.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    codes = "\n".join(f"  {code:>3}  {meaning}" for code, meaning in MEANINGS.items())
    upscale = commands.add_parser(
        "upscale",
        help="upscale pictures",
        description="Upscale pictures and folders of pictures (JPEG, PNG, WebP).",
        epilog=f"exit codes:\n{codes}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_file_flags(upscale)
    add_model_flags(upscale)
    settings = upscale.add_argument_group("settings")
    for parameter in UpscaleParameters.declared():
        _add_setting(settings, parameter)
    add_ccsr_command(commands, _add_setting, model_file)
    add_caption_command(commands, _add_setting)
    add_models_command(commands)
    # Its own flags are in remote_arguments, which parses them.
    commands.add_parser("remote", help="upscale pictures with fal's service, for money", add_help=False)
    commands.add_parser("parameters", help="print all settings as a Markdown table", allow_abbrev=False)
    return parser


def _add_setting(group: argparse._ArgumentGroup, parameter: Parameter) -> None:
    flag = "--" + parameter.name.replace("_", "-")
    help = f"{parameter.help} ({parameter.allowed}; default: {default_text(parameter)})".replace("%", "%%")
    # Without a default, what was given can be told from what was not.
    details: dict[str, Any] = {"dest": parameter.name, "help": help, "default": argparse.SUPPRESS}
    if parameter.type is bool:
        group.add_argument(flag, action=argparse.BooleanOptionalAction, **details)
        return
    metavar = "FILE" if parameter.type is str and parameter.model_source else parameter.type.__name__.upper()
    kind = model_file_or_address if metavar == "FILE" else parameter.type
    group.add_argument(flag, type=kind, metavar=metavar, **details)


def read_request(arguments: argparse.Namespace) -> Request:
    """What the parsed arguments of `upscale` ask for.

    Raises `UsageError` and, for a setting, `ParameterError`.
    """
    values = {p.name: getattr(arguments, p.name) for p in UpscaleParameters.declared() if p.name in arguments}
    given = {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}
    if arguments.from_image:
        given = _recorded_settings(arguments.from_image, given) | given
    parameters = UpscaleParameters.from_mapping(given)
    models = find_model_files(arguments, parameters, starter_suits="model_type" not in values)
    if parameters.creativity > 0 and not models.checkpoint:
        raise UsageError("a base model is needed: give --checkpoint FILE, or --creativity 0 to resize only")
    if parameters.creativity > 0 and parameters.shape_preservation > 0 and not models.has_controlnet:
        raise UsageError("a tile ControlNet is needed: give --controlnet FILE, or --shape-preservation 0")
    limits = starter.Limits.read(models.checkpoint) if models.checkpoint else starter.Limits()
    parameters, notes = limits.fit(parameters, given)
    if parameters.creativity == 0:
        models = dataclasses.replace(
            ModelFiles(), upscaler=models.upscaler, ccsr=models.ccsr, safety_checker=models.safety_checker
        )
    chosen = [
        name
        for role, name in models.record().items()
        if name in starter.NAMES and not getattr(arguments, role, None)
    ]
    if chosen:
        notes.insert(0, f"note: no other was named, so this uses {' and '.join(chosen)}")
    return Request(
        parameters=parameters,
        given=frozenset(given),
        models=models,
        notes=tuple(notes),
        **{f.name: getattr(arguments, f.name) for f in fields(Request) if f.name in arguments},
    )


def _recorded_settings(picture: Path, given: dict[str, Any]) -> dict[str, Any]:
    """Settings and seed of a result, less those that what is `given` replaces as a group."""
    record = read_record(picture)
    if record is None:
        raise UsageError(f"--from-image: {picture} is no picture that creative-upscaler has written")
    replaced = set(PRESETS.get(given.get("preset", "custom"), {}))
    if SIZE_SETTINGS & set(given):
        replaced |= SIZE_SETTINGS
    settings = {**record["settings"], "seed": record["seed"]}
    return {name: value for name, value in settings.items() if name not in replaced}
