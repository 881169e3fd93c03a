"""The command line `creative-upscaler`: pictures from files and folders through the engine.

What takes long to import is imported when it is needed, so that help and wrong usage answer at once.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from ..pipelines.errors import DownloadError, ModelFileError, UpscalerError
from .arguments import build_parser, read_request
from .exit_codes import INTERRUPTED, MODEL_FILE_ERROR, OK, USAGE_ERROR, UsageError
from .jobs import plan_jobs
from .models import run_models
from .table import parameter_table


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code (see `exit_codes`). `argv` is without the program's name."""
    arguments_given = list(sys.argv[1:] if argv is None else argv)
    if arguments_given[:1] == ["remote"]:
        from .remote import run_remote  # noqa: PLC0415

        return run_remote(arguments_given[1:])
    parser = build_parser()
    try:
        arguments = parser.parse_args(argv)
    except SystemExit as stop:  # argparse has already printed the help or what is wrong
        return OK if stop.code in (None, 0) else USAGE_ERROR
    try:
        if arguments.command == "parameters":
            print(parameter_table())
            return OK
        if arguments.command == "models":
            return run_models(arguments)
        if arguments.command == "caption":
            from .captioning import run_captions  # noqa: PLC0415

            return run_captions(arguments)
        if arguments.command == "ccsr":
            from .ccsr import run_ccsr  # noqa: PLC0415

            return run_ccsr(arguments)
        request = read_request(arguments)
        jobs = plan_jobs(request)
        from .upscaling import load_engine, run_jobs  # noqa: PLC0415

        return run_jobs(jobs, request, load_engine)
    except KeyboardInterrupt:
        return _fail("interrupted", INTERRUPTED)
    except (ModelFileError, DownloadError) as error:
        return _fail(error, MODEL_FILE_ERROR)
    except (UsageError, UpscalerError) as error:
        return _fail(error, USAGE_ERROR)


def _fail(message: object, code: int) -> int:
    print(f"creative-upscaler: error: {message}", file=sys.stderr)
    return code
