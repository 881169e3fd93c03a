"""The JSON a request carries, and the fingerprint by which it is known again."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from ..errors import ParameterError
from ..parameters import UpscaleParameters
from ..settings import Parameter

PICTURE_FIELD = "image_url"
MODEL_SUFFIX = ".safetensors"


def fal_parameters() -> tuple[Parameter, ...]:
    """The declared settings that are fields of fal's schema, in the order of the declaration."""
    return tuple(parameter for parameter in UpscaleParameters.declared() if parameter.fal)


def make_arguments(parameters: UpscaleParameters, *, seed: int | None) -> dict[str, Any]:
    """All of the request but the picture. What is not given (None) is left out: fal draws a seed then.

    Raises `ParameterError` for a model address that is not https and .safetensors: fal would load whatever
    it holds.
    """
    values = {parameter.name: getattr(parameters, parameter.name) for parameter in fal_parameters()}
    values["seed"] = seed
    for parameter in fal_parameters():
        if parameter.model_source and parameter.type is str:
            values[parameter.name] = check_model_url(parameter.name, values[parameter.name])
    if values["additional_lora_url"] is None:
        del values["additional_lora_scale"]
    return {name: value for name, value in values.items() if value is not None}


def check_model_url(field: str, url: str | None) -> str | None:
    """Raise `ParameterError` unless it is an https address of a safetensors file; empty is None."""
    if not url:
        return None
    parts = urlsplit(url)
    if parts.scheme != "https" or not parts.hostname or parts.username is not None:
        raise ParameterError(
            field, "is no https address without a user name; fal loads models from such only"
        )
    # Civitai's addresses do not end in a file name, but say the format.
    is_civitai = parts.hostname == "civitai.com" and "format=safetensor" in parts.query.lower()
    if not parts.path.lower().endswith(MODEL_SUFFIX) and not is_civitai:
        raise ParameterError(field, f"does not end in {MODEL_SUFFIX}; other formats can run code when loaded")
    return url


def check_picture_url(url: str) -> str:
    """The address of a hosted picture, which is passed on as it is and never read here.

    Raises `ParameterError` for what is no http(s) address, or has a user name or password in it.
    """
    try:
        parts = urlsplit(url)
        bad = parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None
    except ValueError:
        bad = True
    if bad or re.search(r"[\s\x00-\x1f]", url):
        raise ParameterError(PICTURE_FIELD, "is no http(s) address without user name, spaces and controls")
    return url


def make_fingerprint(
    *, server: str, app: str, credential: str, arguments: Mapping[str, Any], picture: str
) -> str:
    """What makes two requests the same one: app, account, settings and picture.

    `picture` is a checksum of the pixels (or of a hosted address): the same picture is uploaded to a new
    address each time.
    """
    parts = [server, app, credential, dict(arguments), picture]
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def request_headers(*, keep_hours: int, store_payloads: bool) -> dict[str, str]:
    """fal's headers for how long what was sent and made is kept."""
    headers = {}
    if keep_hours:
        lifetime = json.dumps({"expiration_duration_seconds": keep_hours * 3600})
        headers["X-Fal-Object-Lifecycle-Preference"] = lifetime
    if not store_payloads:
        headers["X-Fal-Store-IO"] = "0"
    return headers
