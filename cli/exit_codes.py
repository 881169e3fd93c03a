"""Exit codes that scripts can rely on."""

from __future__ import annotations

OK = 0
SOME_FAILED = 1
USAGE_ERROR = 2
MODEL_FILE_ERROR = 3
INTERRUPTED = 130

MEANINGS = {
    OK: "every picture is done, or was already (--resume)",
    SOME_FAILED: "some pictures failed; the others are done",
    USAGE_ERROR: "a flag, a setting or a path is wrong",
    MODEL_FILE_ERROR: "a model file is missing, damaged, unsafe, of another kind or not to be had",
    INTERRUPTED: "stopped by Ctrl-C; finished pictures are kept",
}


class UsageError(Exception):
    """The command cannot be carried out as it was given; its exit code is `USAGE_ERROR`."""
