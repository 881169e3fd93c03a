"""HTTP routes for setting keys, which are never told again, and for what is set.

    POST   /creative_upscaler/credentials  {"name", "key"}   keep a key
    DELETE /creative_upscaler/credentials  {"name"}          forget one
    GET    /creative_upscaler/remote                         names and sources of keys, limits, today's sum

None of them spends or reveals. Only pages of this very ComfyUI may change keys: another site could otherwise
have pictures sent to an account of its own.
"""

from __future__ import annotations

import ipaddress
import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from aiohttp import web
from server import PromptServer

from ..pipelines.remote import credentials
from ..pipelines.remote.errors import RemoteError
from . import remote_host

PATH = "/creative_upscaler"
LONGEST_BODY = 16384


def register_routes() -> None:
    """Add the routes to the running server."""
    routes = PromptServer.instance.routes
    routes.post(f"{PATH}/credentials")(_store)
    routes.delete(f"{PATH}/credentials")(_delete)
    routes.get(f"{PATH}/remote")(_tell)


async def _store(request: web.Request) -> web.Response:
    return await _change(request, ("name", "key"), credentials.store_credential)


async def _delete(request: web.Request) -> web.Response:
    return await _change(request, ("name",), credentials.delete_credential)


async def _change(request: web.Request, fields: tuple[str, ...], change: object) -> web.Response:
    folder = remote_host.private_folder()
    try:
        values = await read_change(request, folder)
        if isinstance(values, web.Response):
            return values
        if not all(isinstance(values.get(field), str) for field in fields):
            return web.json_response({"error": f"send {' and '.join(fields)} as JSON texts"}, status=400)
        change(*(values[field] for field in fields), folder=folder)  # type: ignore[operator]
    except RemoteError as error:  # never holds what the key is
        return web.json_response({"error": str(error)}, status=400)
    except OSError as error:
        return web.json_response({"error": f"the key cannot be kept: {error.strerror}"}, status=500)
    return web.json_response({"saved": True})


async def read_change(request: web.Request, folder: Path) -> dict[str, Any] | web.Response:
    """The JSON object of a request that may change something, else the answer to it.

    Raises `RemoteError` if the user's settings cannot be read.
    """
    from ..pipelines.remote.settings import load_settings  # noqa: PLC0415

    problem = find_problem(request, load_settings(folder).trusted_hosts)
    if problem:
        return web.json_response({"error": problem}, status=403)
    values = await read_object(request)
    if values is None:
        return web.json_response({"error": "send a JSON object"}, status=400)
    return values


async def read_object(request: web.Request) -> dict[str, Any] | None:
    """The JSON object that a request sends; None for anything else, or for more than `LONGEST_BODY`."""
    body = await request.content.read(LONGEST_BODY + 1)
    try:
        values = json.loads(body) if len(body) <= LONGEST_BODY else None
    except (ValueError, RecursionError):
        values = None
    return values if isinstance(values, dict) else None


def find_problem(request: web.Request, trusted_hosts: tuple[str, ...]) -> str:
    """Why this request may not change anything; empty if it may."""
    if request.content_type != "application/json":
        return "the content type has to be application/json"
    if request.headers.get("Sec-Fetch-Site", "same-origin") != "same-origin":
        return "keys and settings are changed from ComfyUI's own page only"
    origin = urlsplit(request.headers.get("Origin", ""))
    if not origin.netloc or origin.netloc.lower() != request.host.lower():
        return "keys and settings are changed from ComfyUI's own page only: the Origin header has to match"
    # A name that a stranger has pointed at this machine would be an origin of its own.
    name = urlsplit(f"//{request.host}").hostname or ""
    if not (name == "localhost" or name.endswith(".localhost") or _is_address(name) or name in trusted_hosts):
        return (
            f"keys and settings are changed through localhost or an IP address, not {name[:80]}; list this "
            "name as trusted_hosts in the pack's settings.json, or use FAL_KEY"
        )
    return ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


async def _tell(request: web.Request) -> web.Response:
    from ..pipelines.remote.journal import Journal  # noqa: PLC0415
    from ..pipelines.remote.settings import load_settings  # noqa: PLC0415
    from ..pipelines.remote.spending import midnight  # noqa: PLC0415

    folder = remote_host.private_folder()
    try:
        listed = credentials.list_credentials(folder=folder, environment=remote_host.environment())
        settings = load_settings(folder)
        megapixels, cost = Journal(folder).spent_since(midnight())
    except RemoteError as error:
        return web.json_response({"error": str(error)}, status=409)
    return web.json_response(
        {
            "credentials": [{"name": name, "source": source} for name, source in listed],
            "limits": {
                name: getattr(settings, name)
                for name in (
                    "max_megapixels_per_run",
                    "max_megapixels_per_day",
                    "max_cost_per_run",
                    "max_cost_per_day",
                )
            },
            "today": {"megapixels": megapixels, "cost": cost},
            "servers": list(settings.servers),
        }
    )
