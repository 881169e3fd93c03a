"""The command `ccsr`: pictures enlarged and restored, written with how that was done."""

from __future__ import annotations

import argparse
import dataclasses
import secrets
from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor

from ..pipelines.ccsr.settings import CcsrSettings
from ..pipelines.ccsr.upscaling import ccsr_upscale
from ..pipelines.runtime import Progress, Runtime
from ..pipelines.stages import Finished
from .ccsr_arguments import CcsrFiles
from .devices import choose_memory
from .exit_codes import UsageError
from .file_arguments import FileRequest
from .jobs import plan_jobs
from .metadata import read_record
from .upscaling import Engine, run_jobs


@dataclass(frozen=True, kw_only=True)
class CcsrRequest(FileRequest):
    """One `ccsr` command."""

    parameters: CcsrSettings
    models: CcsrFiles
    # A record of CCSR names no family of models, so nothing is to be taken over from it.
    given: frozenset[str] = frozenset({"model_type"})


def run_ccsr(arguments: argparse.Namespace) -> int:
    """Make the pictures that the parsed arguments ask for; returns the exit code.

    A picture that fails does not stop the others. Raises `ModelFileError`, `ParameterError` and `UsageError`,
    which would be the same for every picture.
    """
    request = read_request(arguments)
    return run_jobs(plan_jobs(request), request, _load_engine)


def read_request(arguments: argparse.Namespace) -> CcsrRequest:
    """What the parsed arguments ask for. Raises `UsageError` and, for a setting, `ParameterError`."""
    names = [parameter.name for parameter in CcsrSettings.declared()]
    values: dict[str, Any] = {}
    if arguments.from_image:
        record = read_record(arguments.from_image)
        if record is None or "ccsr" not in " ".join(record.get("models", {})):
            raise UsageError(f"--from-image: {arguments.from_image} is no picture that ccsr has written")
        values = {**record["settings"], "seed": record["seed"]}
    values |= {name: getattr(arguments, name) for name in names if name in arguments}
    files = CcsrFiles.given(arguments)
    if not files.record():
        raise UsageError("give --ccsr-model for CCSR v1, or --ccsr-controlnet and --ccsr-base for v2")
    given = {f.name: getattr(arguments, f.name) for f in fields(CcsrRequest) if f.name in arguments}
    return CcsrRequest(**given, parameters=CcsrSettings.from_mapping(values), models=files)


def _load_engine(request: CcsrRequest) -> tuple[CcsrRequest, Engine]:
    memory, settings = choose_memory(request.device, request.dtype), request.parameters
    models = request.models.load(memory)
    # Before the first picture, if it does not fit; this is also what the prompt comes from.
    prompts = [settings.resolved(models.version).prompt]

    def engine(image: Tensor, progress: Progress) -> Finished:
        seed = secrets.randbelow(2**32) if settings.seed is None else settings.seed
        seeded = dataclasses.replace(settings, seed=seed)
        made = ccsr_upscale(image, seeded, models, Runtime(memory, progress))
        return Finished(
            image=made, seed=seed, prompts=prompts, evaluations=0, models={}, flags=None, notes=[]
        )

    return request, engine
