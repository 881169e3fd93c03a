"""The command `creative-upscaler remote`: pictures through fal, and what became of requests."""

from __future__ import annotations

import argparse
import asyncio
import getpass
import json
import os
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

from ..pipelines.errors import ParameterError, PictureError, UpscalerError
from ..pipelines.remote.credentials import delete_credential, store_credential
from ..pipelines.remote.errors import CredentialError, RemoteError, SpendLimitError
from ..pipelines.remote.payload import make_arguments
from ..pipelines.settings import MAX_SEED
from .arguments import ModelFiles, Request, UsageError
from .exit_codes import INTERRUPTED, OK, SOME_FAILED, USAGE_ERROR
from .jobs import Job, plan_jobs
from .metadata import SUFFIXES, make_record
from .remote_arguments import (
    ACTIONS,
    build_remote_parser,
    check_webhook,
    read_options,
    read_settings,
    user_folder,
)


def run_remote(argv: Sequence[str]) -> int:
    """Carry out `remote` with these arguments; returns the exit code."""
    action = argv[0] if argv and argv[0] in ACTIONS else ""
    try:
        arguments = build_remote_parser(action).parse_args(argv[1:] if action else argv)
    except SystemExit as stop:
        return OK if stop.code in (None, 0) else USAGE_ERROR
    folder = user_folder(arguments.user_folder, os.environ)
    try:
        if action == "key":
            return _keep_key(arguments, folder)
        if action == "list":
            return _list(arguments, folder)
        work = {"": _upscale, "submit": _submit, "status": _status, "result": _result, "cancel": _cancel}
        return asyncio.run(work[action](arguments, folder))
    except KeyboardInterrupt:
        return _fail(
            "interrupted; what was submitted is cancelled, or attached to by the same command", INTERRUPTED
        )
    except (UsageError, ParameterError, CredentialError, SpendLimitError) as error:
        return _fail(error, USAGE_ERROR)
    except (UpscalerError, OSError) as error:
        return _fail(error, SOME_FAILED)


def _fail(message: object, code: int) -> int:
    print(f"creative-upscaler: error: {message}", file=sys.stderr)
    return code


def _keep_key(arguments: argparse.Namespace, folder: Path) -> int:
    if arguments.delete:
        delete_credential(arguments.name, folder=folder)
        print(f"the key {arguments.name} is forgotten")
        return OK
    if sys.stdin.isatty():
        key = getpass.getpass(f"Key to keep as {arguments.name}: ")
    else:
        key = sys.stdin.readline().rstrip("\r\n")
    store_credential(arguments.name, key, folder=folder)
    print(f"the key {arguments.name} is kept in {folder}")
    return OK


def _list(arguments: argparse.Namespace, folder: Path) -> int:
    from ..pipelines.remote.journal import Journal  # noqa: PLC0415  starts slower than help is wanted

    entries = Journal(folder).entries(limit=arguments.limit)
    if arguments.json:
        names = ("request_id", "state", "server", "app", "credential", "label", "created", "megapixels")
        names += ("cost", "billed", "seed", "error")
        print(json.dumps([{name: getattr(entry, name) for name in names} for entry in entries], indent=2))
        return OK
    for entry in entries:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.created))
        size = f"{entry.megapixels:6.1f} MP"
        print(f"{entry.request_id or '-':36}  {entry.state:10}  {when}  {size}  {entry.label}")
    return OK


def _upscaler(arguments: argparse.Namespace, folder: Path, names: Sequence[str]) -> Any:
    from ..pipelines.remote.upscaling import RemoteUpscaler  # noqa: PLC0415

    options = read_options(arguments)
    report = _show(names, quiet=arguments.quiet)
    return RemoteUpscaler(folder=folder, environment=os.environ, options=options, report=report)


def _show(names: Sequence[str], *, quiet: bool) -> Callable[[Any], None]:
    def report(event: Any) -> None:
        if not quiet or event.kind == "note":
            name = "" if event.kind == "plan" else f"{event.number + 1}/{len(names)} {names[event.number]}: "
            print(f"{name}{event.text}", file=sys.stderr, flush=True)

    return report


def _pictures(arguments: argparse.Namespace, sources: Sequence[Path]) -> list[Any]:
    from ..pipelines.remote.preparing import RemotePicture  # noqa: PLC0415
    from .pictures import read_picture  # noqa: PLC0415

    parameters = read_settings(arguments)
    pictures = []
    for number, source in enumerate(sources):
        seed = None if parameters.seed is None else (parameters.seed + number) % (MAX_SEED + 1)
        pictures.append(
            RemotePicture(
                arguments=make_arguments(parameters, seed=seed),
                label=source.name,
                image=lambda source=source: read_picture(source).image,
            )
        )
    return pictures


def _plan(arguments: argparse.Namespace) -> list[Job]:
    request = Request(
        inputs=arguments.inputs,
        output=arguments.output,
        parameters=read_settings(arguments),
        given=frozenset(),
        models=ModelFiles(),
        format=arguments.format,
        overwrite=arguments.overwrite,
    )
    return plan_jobs(request)


def _sources(arguments: argparse.Namespace, folder: Path) -> list[Path]:
    """The pictures in the inputs; nothing is written, so that two may have one name."""
    asked = {"parameters": read_settings(arguments), "given": frozenset[str](), "models": ModelFiles()}
    requests = [
        Request(inputs=[path], output=folder, overwrite=True, **asked)  # type: ignore[arg-type]
        for path in arguments.inputs
    ]
    return [job.source for request in requests for job in plan_jobs(request)]


async def _upscale(arguments: argparse.Namespace, folder: Path) -> int:
    from .pictures import check_format, read_picture, write_picture  # noqa: PLC0415

    if not 1 <= arguments.quality <= 100:
        raise UsageError(f"--quality: got {arguments.quality}; allowed is a whole number from 1 to 100")
    jobs = _plan(arguments)
    parameters = read_settings(arguments)
    results: list[dict[str, Any]] = []

    def take(number: int, result: Any) -> None:
        job, (height, width) = jobs[number], result.image.shape[1:]
        check_format(job.format, height, width)
        record = make_record(
            job.source,
            parameters=parameters,
            models={"endpoint": read_options(arguments).endpoint, "request": result.request_id},
            seed=int(result.seed or 0),
            prompt=parameters.prompt + parameters.prompt_suffix,
            width=width,
            height=height,
            safety_checked=parameters.enable_safety_checks,
        )
        profile = read_picture(job.source).profile
        write_picture(
            job.result,
            result.image,
            format=job.format,
            quality=arguments.quality,
            profile=profile,
            record=record,
        )
        results.append(
            {
                "input": str(job.source),
                "output": str(job.result),
                "width": width,
                "height": height,
                "seed": result.seed,
                "request_id": result.request_id,
            }
        )

    try:
        async with _upscaler(arguments, folder, [job.source.name for job in jobs]) as upscaler:
            await upscaler.upscale(_pictures(arguments, [job.source for job in jobs]), take)
    finally:
        if arguments.json:
            print(json.dumps(results, indent=2))
    return OK


async def _submit(arguments: argparse.Namespace, folder: Path) -> int:
    webhook = check_webhook(arguments.webhook_url)
    sources = _sources(arguments, folder)
    async with _upscaler(arguments, folder, [source.name for source in sources]) as upscaler:
        entries = await upscaler.submit(_pictures(arguments, sources), webhook_url=webhook)
    if arguments.json:
        pairs = zip(sources, entries, strict=True)
        print(json.dumps([{"input": str(s), "request_id": e.request_id} for s, e in pairs], indent=2))
    else:
        for entry in entries:
            print(entry.request_id)
    return OK


async def _each(
    arguments: argparse.Namespace,
    folder: Path,
    ask: Callable[[Any, Any], Coroutine[Any, Any, dict[str, Any]]],
) -> int:
    """Ask about every request; a failure does not stop the others."""
    answers, code = [], OK
    async with _upscaler(arguments, folder, arguments.requests) as upscaler:
        for request_id in arguments.requests:
            try:
                entry = upscaler.journal.by_request(request_id)
                client = await (upscaler.client_for(entry) if entry else upscaler.client())
                answer = await ask(client, client.locate(request_id))
            except LookupError:
                answer, code = {"error": "the service does not know this request"}, SOME_FAILED
            except RemoteError as error:
                answer, code = {"error": str(error)}, SOME_FAILED
            answers.append({"request_id": request_id, **answer})
    if arguments.json:
        print(json.dumps(answers, indent=2))
        return code
    for answer in answers:
        print("  ".join(str(value) for value in answer.values() if value is not None))
    return code


async def _status(arguments: argparse.Namespace, folder: Path) -> int:
    async def ask(client: Any, request: Any) -> dict[str, Any]:
        status = await client.status(request, patience=20)
        return {"status": status.state, "queue_position": status.position}

    return await _each(arguments, folder, ask)


async def _cancel(arguments: argparse.Namespace, folder: Path) -> int:
    from ..pipelines.remote.following import cancel  # noqa: PLC0415
    from ..pipelines.remote.journal import Journal  # noqa: PLC0415

    journal = Journal(folder)

    async def ask(client: Any, request: Any) -> dict[str, Any]:
        word = await cancel(client, request)
        if not word:
            return {"error": "the service did not answer"}
        entry = journal.by_request(request.id)
        if entry and entry.state == "submitted" and word != "ALREADY_COMPLETED":
            journal.update(entry, state="cancelling", error=f"cancelled: {word}")
        return {"status": word}

    return await _each(arguments, folder, ask)


async def _result(arguments: argparse.Namespace, folder: Path) -> int:
    from .pictures import write_picture  # noqa: PLC0415

    is_file = arguments.output.suffix.lower() in SUFFIXES and not arguments.output.is_dir()
    if is_file and len(arguments.requests) > 1:
        raise UsageError(f"{arguments.output} is one file, but the requests are several; give a folder")
    paths = [arguments.output if is_file else arguments.output / f"{r}.png" for r in arguments.requests]
    for path in paths:
        if path.exists() and not arguments.overwrite:
            raise UsageError(f"{path} exists; give --overwrite")
    answers, code = [], OK
    async with _upscaler(arguments, folder, arguments.requests) as upscaler:
        for request_id, path in zip(arguments.requests, paths, strict=True):
            try:
                upscaler.journal.by_request(request_id) or (await upscaler.client()).locate(request_id)
                (result,) = await upscaler.collect([request_id])
            except (RemoteError, PictureError) as error:
                answers.append({"request_id": request_id, "error": str(error)})
                code = _fail(error, SOME_FAILED)
                continue
            format = SUFFIXES[path.suffix.lower()]
            write_picture(
                path,
                result.image,
                format=format,
                quality=95,
                profile=None,
                record={"request": request_id, "seed": result.seed},
            )
            answers.append({"request_id": request_id, "output": str(path), "seed": result.seed})
    if arguments.json:
        print(json.dumps(answers, indent=2))
    return code
