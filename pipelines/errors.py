"""What can go wrong, as exceptions whose messages say what was given, what is allowed and what to do.

UpscalerError
├── ParameterError      a setting out of range, of the wrong type or unknown
├── PictureError        an input image that cannot be upscaled
│   └── SizeLimitError  an output larger than the size limit allows
├── ModelFileError      a model file that is missing, damaged, unsafe or of another kind
├── DownloadError       something that could not be read from the network
│   └── DownloadRefused something that is not allowed to be read from the network
├── MissingSafetyCheckerError   results are to be checked, and there is nothing to check them with
└── MemoryLimitError    the smallest possible piece of work does not fit into memory
Cancelled               not an error: the caller asked to stop
"""

from __future__ import annotations

from os import PathLike


class UpscalerError(ValueError):
    """Base of every error this package raises on purpose."""


class ParameterError(UpscalerError):
    """A setting has a value that is not allowed; `field` names it."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field


class PictureError(UpscalerError):
    """An image that cannot be upscaled as it is."""


class SizeLimitError(PictureError):
    """The output would be larger than the size limit, which `override_size_limits` lifts."""


class ModelFileError(UpscalerError):
    """A model file that cannot be used; `path` names it."""

    def __init__(self, path: str | PathLike[str], message: str) -> None:
        super().__init__(f"{path}: {message}")
        self.path = path


class DownloadError(UpscalerError):
    """Something that could not be read from the network; `url` names it and, like the message, has no query.

    `status` is what the server answered, or None if it did not.
    """

    def __init__(self, url: str, message: str, status: int | None = None) -> None:
        self.url = without_secrets(url)
        super().__init__(f"{self.url}: {message}")
        self.status = status


def without_secrets(url: str) -> str:
    """An address as it may be shown: its query may be a signature, and what is before the host a login."""
    bare = url.partition("?")[0].partition("#")[0]
    scheme, slashes, rest = bare.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}{slashes}{host.rpartition('@')[2]}{slash}{path}"


class DownloadRefused(DownloadError):
    """Something that is not allowed to be read: the address, its host, where it leads or its size."""


class MissingSafetyCheckerError(UpscalerError):
    """`enable_safety_checks` is on and no safety checker is loaded: nothing is passed on unchecked."""

    def __init__(self) -> None:
        super().__init__(
            "enable_safety_checks is on, but no safety checker is loaded; load one (the model "
            "CompVis/stable-diffusion-safety-checker, 1.2 GB), or switch enable_safety_checks off if the "
            "results need no check"
        )


class MemoryLimitError(UpscalerError):
    """The device ran out of memory on the smallest possible piece of work."""


class Cancelled(Exception):
    """Raised by a `Progress` to stop the work; nothing below the caller may swallow it."""
