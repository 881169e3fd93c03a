"""The command `ccsr`: pictures enlarged and restored, written with how that was done."""

from __future__ import annotations

import argparse
import dataclasses
import json
import secrets
from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor

from ..pipelines.ccsr.loading import CcsrModels
from ..pipelines.ccsr.settings import CcsrSettings
from ..pipelines.ccsr.upscaling import ccsr_upscale
from ..pipelines.errors import ModelFileError, ParameterError, UpscalerError
from ..pipelines.runtime import LocalMemory, Progress, Runtime
from ..pipelines.stages import Finished
from .ccsr_arguments import CcsrFiles
from .devices import choose_memory
from .exit_codes import INTERRUPTED, OK, SOME_FAILED, UsageError
from .file_arguments import FileRequest
from .jobs import Job, plan_jobs
from .metadata import read_record
from .progress import Display
from .upscaling import make_picture


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
    jobs = plan_jobs(request)
    display = Display(len(jobs), quiet=request.quiet)
    results: list[dict[str, Any]] = []
    try:
        engine = None if all(job.is_done for job in jobs) else _Engine.load(request)
        for job in jobs:
            display.start(job.source.name)
            results.append(_make(job, request, engine, display))
    except KeyboardInterrupt:
        display.note(f"creative-upscaler: interrupted; {len(results)} of {len(jobs)} pictures are done")
        return INTERRUPTED
    finally:
        display.close()
        if request.json:
            print(json.dumps(results, indent=2))
    return SOME_FAILED if any("error" in result for result in results) else OK


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


@dataclass(frozen=True)
class _Engine:
    models: CcsrModels
    settings: CcsrSettings
    memory: LocalMemory

    @classmethod
    def load(cls, request: CcsrRequest) -> _Engine:
        memory = choose_memory(request.device, request.dtype)
        models = request.models.load(memory)
        request.parameters.resolved(models.version)  # before the first picture, if it does not fit
        return cls(models, request.parameters, memory)

    def __call__(self, image: Tensor, progress: Progress) -> Finished:
        seed = secrets.randbelow(2**32) if self.settings.seed is None else self.settings.seed
        settings = dataclasses.replace(self.settings, seed=seed)
        made = ccsr_upscale(image, settings, self.models, Runtime(self.memory, progress))
        prompts = [settings.resolved(self.models.version).prompt]
        return Finished(
            image=made, seed=seed, prompts=prompts, evaluations=0, models={}, flags=None, notes=[]
        )


def _make(job: Job, request: CcsrRequest, engine: _Engine | None, display: Display) -> dict[str, Any]:
    paths = {"input": str(job.source), "output": str(job.result)}
    if job.is_done:
        display.line(f"{job.source} -> {job.result}: is done")
        return {**paths, **(read_record(job.result) or {}), "skipped": True}
    assert engine is not None
    try:
        result = make_picture(job, request, engine, display)
    except (ModelFileError, ParameterError):
        raise
    except (UpscalerError, OSError) as error:
        display.note(f"creative-upscaler: error: {job.source}: {error}")
        return {**paths, "error": str(error)}
    display.line(
        f"{job.source} -> {job.result}: {result['width']} x {result['height']} px, "
        f"seed {result['seed']}, {result['seconds']} s"
    )
    return result
