"""Upscaling the pictures of one command: models are loaded once, each picture is written when it is done."""

from __future__ import annotations

import dataclasses
import json
import time
import traceback
from typing import Any, Protocol

import torch
from torch import Tensor

from ..pipelines.creative import Upscaled, upscale
from ..pipelines.errors import ModelFileError, ParameterError, UpscalerError
from ..pipelines.models import load_models
from ..pipelines.pre_upscaling import load_upscaler
from ..pipelines.resizing import target_size
from ..pipelines.runtime import LocalMemory, Progress, Runtime
from .arguments import Request, UsageError
from .exit_codes import INTERRUPTED, OK, SOME_FAILED
from .jobs import Job
from .metadata import make_record, read_record
from .pictures import check_format, read_picture, write_picture
from .progress import Display

NOT_CHECKED = (
    "note: enable_safety_checks is on, but this version has no safety checker: results are not checked "
    "(--no-enable-safety-checks says that you know)"
)


class Engine(Protocol):
    """The engine with its models loaded: what makes one picture."""

    def __call__(self, image: Tensor, progress: Progress) -> Upscaled: ...


def run_jobs(jobs: list[Job], request: Request) -> int:
    """Make the pictures of `jobs`; returns the exit code.

    A picture that fails does not stop the others. Raises `ModelFileError` and `ParameterError`, which would
    be the same for every picture, and `UsageError` for a device that is not there.
    """
    display = Display(len(jobs), quiet=request.quiet)
    results: list[dict[str, Any]] = []
    code = OK
    try:
        if not all(job.is_done for job in jobs):
            if request.parameters.enable_safety_checks:
                display.note(NOT_CHECKED)
            for note in request.notes:
                display.note(note)
            request, engine = load_engine(request)
        for job in jobs:
            display.start(job.source.name)
            if job.is_done:
                results.append(_entry(job, read_record(job.result) or {}))
                display.line(f"{job.source} -> {job.result}: is done")
                continue
            try:
                result = make_picture(job, request, engine, display)
                display.line(
                    f"{job.source} -> {job.result}: {result['width']} x {result['height']} px, "
                    f"seed {result['seed']}, {result['seconds']} s"
                )
            except (ModelFileError, ParameterError):
                raise
            except Exception as error:
                code = SOME_FAILED
                if not isinstance(error, UpscalerError | OSError):
                    traceback.print_exc()
                result = {"input": str(job.source), "output": str(job.result), "error": str(error)}
                display.note(f"creative-upscaler: error: {job.source}: {error}")
            results.append(result)
    except KeyboardInterrupt:
        done = sum("error" not in result for result in results)
        display.note(f"creative-upscaler: interrupted; {done} of {len(jobs)} pictures are done")
        code = INTERRUPTED
    finally:
        display.close()
        if request.json:
            print(json.dumps(results, indent=2))
    return code


def load_engine(request: Request) -> tuple[Request, Engine]:
    """Load the models once, and settle what depends on them: the family, unless it was asked for."""
    memory = _memory(request)
    files, parameters = request.models, request.parameters
    upscaler = load_upscaler(files.upscaler) if files.upscaler else None
    models = None
    if files.checkpoint:
        models = load_models(
            files.checkpoint,
            model_type=parameters.model_type if "model_type" in request.given else None,
            vae=files.vae,
            controlnet=files.controlnet,
            loras=files.loras,
            detail_lora=files.detail_lora,
            embeddings=files.embeddings,
            memory=memory,
        )
        parameters = dataclasses.replace(parameters, model_type=models.model_type)

    def engine(image: Tensor, progress: Progress) -> Upscaled:
        return upscale(
            image, parameters, models, upscaler=upscaler, runtime=Runtime(memory=memory, progress=progress)
        )

    return dataclasses.replace(request, parameters=parameters), engine


def _memory(request: Request) -> LocalMemory:
    dtype = getattr(torch, request.dtype) if request.dtype else None
    if not request.device:
        return LocalMemory(diffusion_dtype=dtype)
    try:
        device = torch.device(request.device)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"--device {request.device} cannot be used: {reason}") from error
    return LocalMemory(device=device, diffusion_dtype=dtype)


def make_picture(job: Job, request: Request, engine: Engine, display: Display) -> dict[str, Any]:
    """Read, upscale and write one picture; returns its entry in the JSON result."""
    start = time.monotonic()
    picture = read_picture(job.source)
    size = target_size(picture.image.shape[2], picture.image.shape[3], request.parameters)
    check_format(job.format, *size)
    upscaled = engine(picture.image, display)
    record = make_record(
        job.source,
        parameters=request.parameters,
        models=request.models.record(),
        seed=upscaled.seed,
        prompt=upscaled.prompts[0],
        width=upscaled.image.shape[3],
        height=upscaled.image.shape[2],
    )
    write_picture(
        job.result,
        upscaled.image[0],
        format=job.format,
        quality=request.quality,
        profile=picture.profile,
        record=record,
    )
    return _entry(job, record, seconds=round(time.monotonic() - start, 3))


def _entry(job: Job, record: dict[str, Any], seconds: float = 0.0) -> dict[str, Any]:
    names = ("width", "height", "seed", "prompt", "settings", "models", "safety_checked")
    paths = {"input": str(job.source), "output": str(job.result)}
    return paths | {name: record.get(name) for name in names} | {"seconds": seconds, "skipped": job.is_done}
