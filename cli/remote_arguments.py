"""Flags of `creative-upscaler remote`."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..pipelines.parameters import UpscaleParameters
from ..pipelines.remote.options import RemoteOptions
from ..pipelines.remote.payload import fal_parameters
from ..pipelines.settings import Parameter
from .arguments import UsageError
from .metadata import FORMATS
from .table import default_text

ACTIONS = ("submit", "status", "result", "cancel", "list", "key")

DESCRIPTION = """\
Have pictures upscaled by fal's creative-upscaler, or a server with the same app. Costs money.

  remote IN... -o OUT         upscale and wait
  remote submit IN...         submit only; prints request ids
  remote status ID...         how far requests are
  remote result ID... -o OUT  wait for requests and fetch their results
  remote cancel ID...         cancel requests
  remote list                 what was submitted from here
  remote key [NAME]           keep a key, read from the terminal or standard input

The key is FAL_KEY of the environment, or one kept with `remote key`. No command takes one as an argument.
"""


def build_remote_parser(action: str) -> argparse.ArgumentParser:
    """The parser of one action; the empty one upscales."""
    parser = argparse.ArgumentParser(
        prog=f"creative-upscaler remote {action}".rstrip(),
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "--user-folder",
        type=Path,
        metavar="DIR",
        help="of keys, settings.json, journal and results (default: CREATIVE_UPSCALER_HOME, else that of the "
        "ComfyUI this is installed in, else one in your home folder)",
    )
    if action == "key":
        add("name", nargs="?", default="default", metavar="NAME", help="(default: default)")
        add("--delete", action="store_true", help="forget the key instead")
        return parser
    add("--json", action="store_true", help="print JSON, and nothing else, on standard output")
    if action == "list":
        add("--limit", type=int, default=50, metavar="N", help="the latest N (default: 50)")
        return parser
    add("--quiet", action="store_true", help="print only notes and errors")
    if action in ("", "submit"):
        add("inputs", nargs="+", type=Path, metavar="IN", help="pictures, or folders of pictures")
        settings = parser.add_argument_group("settings of the app")
        for parameter in fal_parameters():
            _add_flag(settings, parameter)
    else:
        add("requests", nargs="+", metavar="ID", help="request ids")
    if action in ("", "result"):
        add(
            "-o",
            "--output",
            type=Path,
            required=True,
            metavar="OUT",
            help="a file for one picture, else a folder",
        )
        add("--overwrite", action="store_true", help="replace results that exist")
    if action == "":
        add("--format", choices=tuple(FORMATS), help="of the results; default: OUT's, else the input's")
        add("--quality", type=int, default=95, metavar="1-100", help="of JPEG and WebP (default: 95)")
    if action == "submit":
        add("--webhook-url", default="", metavar="URL", help="https address that is told the result")
    options = parser.add_argument_group("how to run")
    for option in RemoteOptions.declared():
        _add_flag(options, option)
    return parser


def _add_flag(group: argparse._ArgumentGroup, parameter: Parameter) -> None:
    flag = "--" + parameter.name.replace("_", "-")
    help = f"{parameter.help} ({parameter.allowed}; default: {default_text(parameter)})".replace("%", "%%")
    details: dict[str, Any] = {"dest": parameter.name, "help": help, "default": argparse.SUPPRESS}
    if parameter.type is bool:
        group.add_argument(flag, action=argparse.BooleanOptionalAction, **details)
        return
    is_url = parameter.type is str and parameter.model_source
    metavar = "URL" if is_url else parameter.type.__name__.upper()
    group.add_argument(flag, type=parameter.type, metavar=metavar, **details)


def read_settings(arguments: argparse.Namespace) -> UpscaleParameters:
    """The app's settings. Raises `ParameterError`."""
    given = {p.name: getattr(arguments, p.name) for p in fal_parameters() if p.name in arguments}
    return UpscaleParameters.from_mapping(given)


def read_options(arguments: argparse.Namespace) -> RemoteOptions:
    """How to run. Raises `ParameterError`."""
    return RemoteOptions(
        **{o.name: getattr(arguments, o.name) for o in RemoteOptions.declared() if o.name in arguments}
    )


def user_folder(asked: Path | None, environment: Mapping[str, str]) -> Path:
    """The private folder; that of the nodes where there is one, so that both know of the same requests."""
    if asked:
        return asked
    if environment.get("CREATIVE_UPSCALER_HOME"):
        return Path(environment["CREATIVE_UPSCALER_HOME"])
    pack = Path(__file__).absolute().parents[1]
    if pack.parent.name == "custom_nodes" and (pack.parent.parent / "user").is_dir():
        return pack.parent.parent / "user" / "__creative_upscaler"
    if os.name == "nt" and environment.get("APPDATA"):
        return Path(environment["APPDATA"]) / "creative-upscaler"
    base = environment.get("XDG_DATA_HOME")
    return (Path(base) if base else Path.home() / ".local" / "share") / "creative-upscaler"


def check_webhook(url: str) -> str:
    """Raise `UsageError` unless it is empty or an https address."""
    if url and not url.startswith("https://"):
        raise UsageError("--webhook-url is no https address")
    return url
