"""Upscaling the pictures of one command: models are loaded once, each picture is written when it is done."""

from __future__ import annotations

import dataclasses
import json
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from ..pipelines.ccsr.settings import CcsrSettings
from ..pipelines.errors import MissingSafetyCheckerError, ModelFileError, ParameterError, UpscalerError
from ..pipelines.models import load_models
from ..pipelines.pre_upscaling import load_upscaler
from ..pipelines.resizing import Size, target_size
from ..pipelines.runtime import LocalMemory, Progress, Runtime
from ..pipelines.safety import check_safety, load_safety_checker
from ..pipelines.stages import Finished, Stages, run_stages
from .arguments import Request
from .ccsr_arguments import CcsrFiles
from .devices import choose_memory
from .exit_codes import INTERRUPTED, OK, SOME_FAILED
from .file_arguments import FileRequest
from .jobs import Job
from .metadata import make_record, read_record
from .pictures import check_format, read_picture, write_picture
from .progress import Display


class Engine(Protocol):
    """The engine with its models loaded: what makes one picture."""

    def __call__(self, image: Tensor, progress: Progress) -> Finished: ...


Load = Callable[[Any], tuple[Any, Engine]]
"""Loads the models of a request; the request comes back with what depends on them settled."""


def run_jobs(jobs: list[Job], request: FileRequest, load: Load) -> int:
    """Make the pictures of `jobs`; returns the exit code.

    A picture that fails does not stop the others. Raises `ModelFileError` and `ParameterError`, which would
    be the same for every picture, and `UsageError` for a device that is not there.
    """
    display = Display(len(jobs), quiet=request.quiet)
    results: list[dict[str, Any]] = []
    code = OK
    try:
        if not all(job.is_done for job in jobs):
            for note in request.notes:
                display.note(note)
            request, engine = load(request)
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
    """Load the models once, and settle what depends on them: the family, unless it was asked for.

    Raises `MissingSafetyCheckerError` before anything is loaded.
    """
    files, parameters = request.models, request.parameters
    if parameters.enable_safety_checks and files.safety_checker is None:
        raise MissingSafetyCheckerError
    memory = choose_memory(request.device, request.dtype)
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
    describe = _captioner(files.captioner, memory) if files.captioner else None
    restore = _restorer(files.ccsr, memory) if files.ccsr.record() and not parameters.skip_ccsr else None
    checker = load_safety_checker(files.safety_checker) if files.safety_checker else None

    def engine(image: Tensor, progress: Progress) -> Finished:
        runtime = Runtime(memory=memory, progress=progress)
        stages = Stages(
            describe=describe and partial(describe, runtime=runtime),
            restore=restore and partial(restore, runtime=runtime),
            check=checker and partial(check_safety, checker=checker, runtime=runtime),
        )
        return run_stages(image, parameters, models, stages, upscaler=upscaler, runtime=runtime)

    return dataclasses.replace(request, parameters=parameters), engine


def _captioner(folder: Path, memory: LocalMemory) -> Callable[..., list[str]]:
    from ..pipelines.captioning import caption, load_captioner  # noqa: PLC0415  only where it is needed

    return partial(caption, captioner=load_captioner(folder, memory))


def _restorer(files: CcsrFiles, memory: LocalMemory) -> Callable[..., Tensor]:
    from ..pipelines.ccsr.upscaling import ccsr_upscale  # noqa: PLC0415  only where it is needed

    models = files.load(memory)

    def restore(image: Tensor, size: Size, seed: int, *, runtime: Runtime) -> Tensor:
        return ccsr_upscale(image, CcsrSettings(seed=seed), models, runtime, size=size)

    return restore


def make_picture(job: Job, request: FileRequest, engine: Engine, display: Display) -> dict[str, Any]:
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
        safety_checked=upscaled.flags is not None,
    )
    for note in upscaled.notes:
        display.note(f"{job.source}: {note}")
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
