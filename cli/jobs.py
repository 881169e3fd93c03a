"""Which pictures a command is about and where their results go."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .exit_codes import UsageError
from .file_arguments import FileRequest
from .metadata import FORMATS, SUFFIXES, read_record, settings_of, sha256


@dataclass(frozen=True)
class Job:
    """One picture to upscale."""

    source: Path
    result: Path
    format: str
    """Of the result: a key of `metadata.FORMATS`."""
    is_done: bool = False
    """The result is there already, and --resume was given."""


def plan_jobs(request: FileRequest) -> list[Job]:
    """The pictures of `request.inputs`, in the order given; those of a folder by name.

    Raises `UsageError` if an input is missing or holds no picture, if two results would be one file, if a
    result would replace its input, or exists and is neither to be replaced nor to be kept.
    """
    sources = [source for path in request.inputs for source in find_pictures(path)]
    if _is_file_name(request):
        format = SUFFIXES[request.output.suffix.lower()]
        if request.format not in (None, format):
            raise UsageError(f"--format {request.format} does not fit the name {request.output.name}")
        jobs = [Job(sources[0], request.output, format)]
    else:
        jobs = [_job_in_folder(source, request) for source in sources]
    by_result: dict[Path, Job] = {}
    for job in jobs:
        twin = by_result.setdefault(job.result, job)
        if twin is not job:
            raise UsageError(f"{twin.source} and {job.source} would both become {job.result}; rename one")
        if job.result.exists() and job.result.samefile(job.source):
            raise UsageError(f"{job.result} would replace its own input; give another output")
        if job.result.is_dir():
            raise UsageError(f"{job.result} is a folder")
    existing = [job for job in jobs if job.result.exists()]
    if request.resume:
        jobs = [Job(job.source, job.result, job.format, _is_done(job, request)) for job in jobs]
        existing = [job for job in jobs if job.result.exists() and not job.is_done]
    if existing and not request.overwrite:
        reason = "was made with other settings or from another input" if request.resume else "exists"
        raise UsageError(
            f"{existing[0].result} {reason} (and {len(existing) - 1} more); "
            + ("give --overwrite too to make it again" if request.resume else "give --resume or --overwrite")
        )
    return jobs


def find_pictures(path: Path) -> list[Path]:
    if not path.is_dir():
        if not path.exists():
            raise UsageError(f"{path} does not exist")
        return [path]
    pictures = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES and file.is_file())
    if not pictures:
        raise UsageError(f"{path} holds no picture ({', '.join(SUFFIXES)})")
    return pictures


def _is_file_name(request: FileRequest) -> bool:
    """Whether the output names one file, and not a folder."""
    output, suffix = request.output, request.output.suffix.lower()
    if output.is_dir():
        return False
    is_one = len(request.inputs) == 1 and not request.inputs[0].is_dir()
    if suffix in SUFFIXES and not is_one:
        raise UsageError(f"{output} is one file, but the inputs are several; give a folder")
    if output.exists() and suffix not in SUFFIXES:
        raise UsageError(f"{output} is neither a folder nor a picture ({', '.join(SUFFIXES)})")
    return suffix in SUFFIXES


def _job_in_folder(source: Path, request: FileRequest) -> Job:
    own = SUFFIXES.get(source.suffix.lower())
    if request.format in (None, own) and own:
        return Job(source, request.output / source.name, own)
    format = request.format or "png"
    return Job(source, request.output / (source.stem + FORMATS[format]), format)


def _is_done(job: Job, request: FileRequest) -> bool:
    """Whether the result was made from this input with these settings and models (by name)."""
    record = read_record(job.result) if job.result.exists() else None
    if record is None:
        return False
    settings = settings_of(request.parameters)
    if "model_type" not in request.given:
        # The family follows from the checkpoint, which is not read for this.
        settings["model_type"] = record["settings"].get("model_type")
    same = record["settings"] == settings and record.get("models") == request.models.record()
    same = same and request.parameters.seed in (None, record["seed"])
    return same and record.get("source", {}).get("sha256") == sha256(job.source)
