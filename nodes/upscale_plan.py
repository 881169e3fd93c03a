"""What Creative Upscale would do with the values of its widgets: numbers and warnings for the page."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..pipelines.errors import ModelFileError, ParameterError, SizeLimitError
from ..pipelines.parameters import UpscaleParameters
from ..pipelines.planning import UpscalePlan, estimate_memory, find_risks, plan_upscale
from ..pipelines.starter import Limits
from . import host
from .creative_upscale import fit_settings, shown_parameters
from .load_models import find_model
from .user_limits import check_local_target

if TYPE_CHECKING:
    from ..pipelines.models.outlines import Outline

LARGEST_SOURCE = 65536
MOST_PICTURES = 10_000


def describe_plan(asked: Mapping[str, Any]) -> dict[str, Any]:
    """The plan for what a page knows of a node.

    `asked` holds `settings`, the node's widgets by name; `unknown`, the names of those that a link decides;
    `models`, the widgets of the loader or None; `source`, width and height of the picture, or None; and
    `pictures`, how many there are. Other entries are ignored.

    Answers `warnings` and `notes`, texts; `refused`, whether a run would end with the last warning; and
    `plan`, None then or where a number is missing: sizes as [width, height], `passes`, `evaluations` of all
    pictures, and `memory`.
    Raises `ParameterError` and `ValueError` for what no page of ours sends.
    """
    source, pictures = _source(asked.get("source")), _count(asked.get("pictures", 1))
    outline, values, limits, warnings, notes = _models(asked.get("models"))
    known = {p.name for p in shown_parameters() if not p.multiline and p.name != "seed"}
    settings = {name: value for name, value in _table(asked.get("settings")).items() if name in known}
    unknown = sorted(known & {str(name) for name in asked.get("unknown", [])})
    for name in unknown:
        settings.pop(name, None)
    answer: dict[str, Any] = {"plan": None, "refused": False, "warnings": warnings, "notes": notes}
    try:
        parameters, said = fit_settings(settings, outline.model_type, limits)
        for text in said:
            kind, _, rest = text.partition(": ")
            (warnings if kind == "warning" else notes).append(rest)
        warnings += find_risks(parameters)
        if unknown:
            notes.append(f"known only in the run, because a link decides: {', '.join(unknown)}")
        if parameters.creativity > 0 and parameters.shape_preservation > 0 and values is None:
            warnings.append(
                "shape_preservation needs a tile ControlNet: choose one in the loader, or set it to 0"
            )
        if source is not None and not unknown:
            check_local_target(source, parameters)
            plan = plan_upscale(source, parameters, outline.shape)
            memory = _memory(plan, parameters, outline, values or 0)
            if memory["least"] > memory["total"]:
                warnings.append("this device has not enough memory for a single tile: lower tile_size")
            answer["plan"] = _numbers(source, plan, pictures, memory)
    except (ParameterError, SizeLimitError) as refusal:
        warnings.append(str(refusal))
        answer["refused"] = True
    return answer


def _numbers(
    source: tuple[int, int], plan: UpscalePlan, pictures: int, memory: dict[str, Any]
) -> dict[str, Any]:
    return {
        "source": list(source[::-1]),
        "size": list(plan.size[::-1]),
        "pictures": pictures,
        "passes": [
            {
                "size": list(part.size[::-1]),
                "tiles": [part.grid.columns.count, part.grid.rows.count],
                "steps": part.steps,
                "evaluations": part.evaluations,
            }
            for part in plan.passes
        ],
        "evaluations": pictures * plan.evaluations,
        "memory": memory,
    }


def _memory(
    plan: UpscalePlan, parameters: UpscaleParameters, outline: Outline, values: int
) -> dict[str, Any]:
    """`values`: numbers of the ControlNet."""
    memory = host.HostMemory()
    itemsize = memory.dtype("diffusion").itemsize
    held = outline.unet_values + (values if parameters.shape_preservation > 0 else 0)
    need = estimate_memory(
        plan,
        parameters,
        outline.shape,
        memory,
        weights=held * itemsize,
        itemsize=itemsize,
        vae_itemsize=memory.dtype("vae").itemsize,
    )
    total = host.total_bytes(memory.device)
    return {"least": need.least, "expected": need.expected, "batch": need.batch, "total": total}


def _models(loader: Any) -> tuple[Outline, int | None, Limits, list[str], list[str]]:
    """Outline, numbers in the ControlNet (None without one) and limits of what the loader would load.

    Then warnings and notes about it.
    """
    from ..pipelines.models.outlines import known_outline  # noqa: PLC0415

    wanted = _table(loader)
    family = "SDXL" if wanted.get("model_type") == "SDXL" else "SD_1_5"
    assumed = known_outline(family), 0, Limits()
    if loader is None:
        return *assumed, [], [f"no models are connected; planned for {_NAMES[family]}"]
    try:
        base = find_model("checkpoint", str(wanted.get("checkpoint")))
        outline, hint = _outline(base, host.folder_version(base)), str(wanted.get("controlnet", host.NONE))
        network = outline.controlnet if hint == host.NONE else find_model("controlnet", hint)
        values = None if network is None else _values(network, host.folder_version(network))
        return outline, values, Limits.read(base), [], []
    except FileNotFoundError as error:
        problem = f"a chosen model is not there yet: {error}"
    except ModelFileError as error:
        problem = str(error).replace(str(error.path), Path(error.path).name)
    return *assumed, [problem], [f"planned for {_NAMES[family]}"]


_NAMES = {"SD_1_5": "SD 1.5", "SDXL": "SDXL"}


@lru_cache(maxsize=32)
def _outline(path: Path, version: str) -> Outline:
    from ..pipelines.models.outlines import read_outline  # noqa: PLC0415

    return read_outline(path)


@lru_cache(maxsize=32)
def _values(path: Path, version: str) -> int:
    from ..pipelines.models.outlines import count_values  # noqa: PLC0415

    return count_values(path)


def _table(value: Any) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ValueError("settings and models are tables of widget values by name")
    return value


def _source(value: Any) -> tuple[int, int] | None:
    """Height and width."""
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != 2 or not all(type(side) is int for side in value):
        raise ValueError("source is [width, height] in whole pixels")
    if not all(1 <= side <= LARGEST_SOURCE for side in value):
        raise ValueError(f"the sides of source are from 1 to {LARGEST_SOURCE} px")
    return value[1], value[0]


def _count(value: Any) -> int:
    if type(value) is not int or not 1 <= value <= MOST_PICTURES:
        raise ValueError(f"pictures is a whole number from 1 to {MOST_PICTURES}")
    return value
