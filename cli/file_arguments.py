"""The flags that name pictures and say how results are written, which several commands share."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ..pipelines.settings import Settings
from .exit_codes import UsageError
from .metadata import FORMATS


class ModelNames(Protocol):
    """The model files of a command."""

    def record(self) -> dict[str, Any]:
        """Their names, without folders, for the metadata of a result."""
        ...


@dataclass(frozen=True, kw_only=True)
class FileRequest:
    """One command that makes pictures of pictures."""

    inputs: list[Path]
    output: Path
    parameters: Settings
    given: frozenset[str]
    """Names of the settings that were given, not left at their default."""
    models: ModelNames
    device: str | None = None
    dtype: str | None = None
    format: str | None = None
    quality: int = 95
    overwrite: bool = False
    resume: bool = False
    quiet: bool = False
    json: bool = False
    notes: tuple[str, ...] = ()
    """What to tell the user about models and settings that were chosen for them."""

    def __post_init__(self) -> None:
        if not 1 <= self.quality <= 100:
            raise UsageError(f"--quality: got {self.quality}; allowed is a whole number from 1 to 100")


def add_inputs(parser: argparse.ArgumentParser) -> None:
    """Add the pictures and folders that a command takes."""
    parser.add_argument(
        "inputs",
        nargs="+",
        type=Path,
        metavar="IN",
        help="pictures, or folders of pictures (not those within)",
    )


def add_device(add: Any) -> None:
    """Add what a command computes on."""
    add("--device", help="cpu, cuda, cuda:1, mps (default: the best there is)")


def add_dtype(add: Any) -> None:
    """Add what diffusion networks compute in."""
    add(
        "--dtype",
        choices=("float32", "float16", "bfloat16"),
        help="of the diffusion networks (default: device's)",
    )


def add_file_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `FileRequest` but device and dtype."""
    add_inputs(parser)
    add = parser.add_argument
    add(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="OUT",
        help="a file for one picture, else a folder",
    )
    add(
        "--format",
        choices=tuple(FORMATS),
        help="of the results; default: that of OUT's name, else of the input",
    )
    add("--quality", type=int, default=95, metavar="1-100", help="of JPEG and WebP (default: 95)")
    add("--from-image", type=Path, metavar="PICTURE", help="take the settings from a result; flags given win")
    add("--overwrite", action="store_true", help="replace results that exist")
    add("--resume", action="store_true", help="skip results that exist with these settings and this input")
    add("--quiet", action="store_true", help="print only notes and errors")
    add("--json", action="store_true", help="print the results as JSON, and nothing else, on standard output")
