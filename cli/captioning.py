"""Captioning the pictures of one command: the captioner is loaded once."""

from __future__ import annotations

import argparse
import json
import traceback
from pathlib import Path
from typing import Any

from tqdm import tqdm
from transformers.utils import logging

from ..pipelines.captioning import caption, load_captioner
from ..pipelines.errors import ModelFileError, UpscalerError
from ..pipelines.runtime import Runtime
from .caption_arguments import read_caption_settings
from .devices import choose_memory
from .exit_codes import INTERRUPTED, OK, SOME_FAILED
from .jobs import find_pictures
from .pictures import read_picture
from .progress import Display


def run_captions(arguments: argparse.Namespace) -> int:
    """Print the caption of each picture as soon as it is there; returns the exit code.

    A picture that fails does not stop the others. Raises `ModelFileError` for the captioner, and `UsageError`
    and `ParameterError` for the arguments.
    """
    settings = read_caption_settings(arguments)
    sources = [source for path in arguments.inputs for source in find_pictures(path)]
    alone = len(sources) == 1
    display = Display(len(sources), quiet=arguments.quiet)
    results: list[dict[str, Any]] = []
    code = OK
    try:
        memory = choose_memory(arguments.device)
        logging.disable_progress_bar()  # reading weights is no progress that a user waits for
        logging.set_verbosity_error()  # what a captioner lacks is checked when it is loaded
        captioner = load_captioner(arguments.captioner, memory)
        for source in sources:
            display.start(source.name)
            result: dict[str, Any] = {"input": str(source)}
            results.append(result)
            try:
                image = read_picture(source).image
                (text,) = caption(image, captioner, settings, Runtime(memory, display))
                result |= {"caption": text, "captioner": captioner.name}
                if not arguments.json:
                    with tqdm.external_write_mode():
                        print(text if alone else f"{source}: {text}", flush=True)
            except ModelFileError:
                raise
            except Exception as error:
                code = SOME_FAILED
                if not isinstance(error, UpscalerError | OSError):
                    traceback.print_exc()
                result["error"] = str(error)
                display.note(f"creative-upscaler: error: {_naming(source, error)}")
    except KeyboardInterrupt:
        done = sum("caption" in result for result in results)
        display.note(f"creative-upscaler: interrupted; {done} of {len(sources)} pictures are done")
        code = INTERRUPTED
    finally:
        display.close()
        if arguments.json:
            print(json.dumps(results, indent=2))
    return code


def _naming(source: Path, error: Exception) -> str:
    return str(error) if str(source) in str(error) else f"{source}: {error}"
