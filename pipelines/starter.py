"""The starter models: small, trained by this project, shipped with it, used where the user names no others.

They lie in `starter/` beside the package's parts, in a checkout as after `pip install`. A folder of models
may say in `limits.json` up to which creativity it draws well and which other settings suit it; these hold
where the user has given none. Nothing heavy is imported here.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import ModelFileError, ParameterError
from .parameters import UpscaleParameters

BUILT_IN = "starter (built in)"
"""What interfaces call a starter model in a list of files."""

FOLDER = Path(__file__).parents[1] / "starter"
UPSCALER = FOLDER / "sr" / "starter-sr-2x.safetensors"
DIFFUSION = FOLDER / "diffusion"
NAMES = ("starter-sr (project-trained)", "starter-diffusion (project-trained)")
"""What a result's metadata call them."""

LIMITS_FILE = "limits.json"


def find_upscaler() -> Path | None:
    """The pre-upscaler `starter-sr`, 2x, or None where it was not installed."""
    return UPSCALER if UPSCALER.is_file() else None


def find_diffusion() -> Path | None:
    """The diffusers folder `starter-diffusion`, or None where it was not installed."""
    return DIFFUSION if (DIFFUSION / "model_index.json").is_file() else None


def name_model(path: Path) -> str:
    """What to call a model in a result's metadata: the starter models by name, others by their file's."""
    for file, name in zip((UPSCALER, DIFFUSION), NAMES, strict=True):
        if path.resolve() == file.resolve():
            return name
    return path.name


@dataclass(frozen=True)
class Limits:
    """What a folder of models says about itself in `limits.json`:

    {"creativity": 0.3, "settings": {"detail": 0.5, "guidance_scale": 2.0}}
    """

    name: str = ""
    """Of the models."""
    creativity: float = 1.0
    """The largest that draws well."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Better values than the declared defaults."""

    @classmethod
    def read(cls, base: Path) -> Limits:
        """Those of a model folder; none for a file, or a folder without them.

        Raises ModelFileError for limits that cannot be read or are no settings of an upscale.
        """
        file = base / LIMITS_FILE
        if not file.is_file():
            return cls()
        try:
            table = json.loads(file.read_text(encoding="utf-8"))
            limits = cls(name_model(base), float(table.get("creativity", 1.0)), table.get("settings", {}))
            UpscaleParameters.from_mapping({"creativity": limits.creativity, **limits.settings})
        except (OSError, ValueError, TypeError, AttributeError, RecursionError, ParameterError) as error:
            raise ModelFileError(file, f"holds no limits of models: {error}") from error
        return limits

    def fit(
        self, parameters: UpscaleParameters, given: Collection[str]
    ) -> tuple[UpscaleParameters, list[str]]:
        """The settings for these models, and what to tell the user about them.

        What is `given`, by name or through a preset, is kept, with a warning where it is too much; defaults
        are replaced by what suits the models.
        """
        changed, notes = {}, []
        free = parameters.preset == "custom"
        for name, value in {"creativity": self.creativity, **self.settings}.items():
            default = getattr(parameters, name)
            if name in given or not free or default == value:
                continue
            if name != "creativity" or default > value:
                changed[name] = value
        if changed:
            values = ", ".join(
                f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"
                for name, value in changed.items()
            )
            notes.append(f"note: {self.name} is used with {values}, which suit it better than the defaults")
        if parameters.creativity > self.creativity and "creativity" not in changed:
            notes.append(
                f"warning: {self.name} draws well up to creativity {self.creativity:g}; "
                f"{parameters.creativity:g} was asked for"
            )
        return dataclasses.replace(parameters, **changed), notes
