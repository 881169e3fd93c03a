"""The pack's part of ComfyUI's settings dialog: what it shows, and the routes behind it.

    GET    /creative_upscaler/settings                    the rows of the dialog and their values, no keys
    POST   /creative_upscaler/settings  {"name", "value"} change one; None is its default

The values are in the pack's private folder and not among ComfyUI's settings, which every extension can read
and write, and are enforced by the engine whatever the page shows. `web/settings.js` draws the rows.
"""

from __future__ import annotations

from typing import Any

from aiohttp import web
from server import PromptServer

from ..pipelines.errors import UpscalerError
from . import remote_host
from .remote_routes import PATH, read_change

HEADING = "Creative Upscaler"

NUMBERS = {
    # Setting: group and label.
    "max_megapixels_per_run": ("Spending limits", "Megapixels per run"),
    "max_megapixels_per_day": ("Spending limits", "Megapixels per day"),
    "max_cost_per_run": ("Spending limits", "Cost per run"),
    "max_cost_per_day": ("Spending limits", "Cost per day"),
    "cache_megabytes": ("Remote results", "Room for remote results"),
    "max_local_megapixels": ("Local results", "Largest local result"),
}
OTHERS = {
    # Setting: group, label and help.
    "keys": (
        "Keys of fal",
        "Keys",
        "Kept on the server in a file that only its user can read. Workflows refer to keys by name.",
    ),
    "servers": (
        "Hosts",
        "Servers beside fal",
        "Servers that remote nodes may call, one per line: a name and an address. A workflow calls them by "
        "that name and cannot give an address. Which keys a server may be sent is said in settings.json "
        "only.",
    ),
    "trusted_hosts": (
        "Hosts",
        "Names of this ComfyUI",
        "Names under which this page may change keys and settings, beside localhost and IP addresses, one "
        "per line.",
    ),
}


def register_settings_routes() -> None:
    """Add the routes to the running server."""
    routes = PromptServer.instance.routes
    routes.get(f"{PATH}/settings")(_tell)
    routes.post(f"{PATH}/settings")(_change)


def setting_rows() -> list[dict[str, Any]]:
    """What the dialog shows, in order: id, kind, group, label, help, and of numbers the bounds and unit."""
    from ..pipelines.remote.settings import UserSettings  # noqa: PLC0415

    declared = {parameter.name: parameter for parameter in UserSettings.declared()}
    numbers = [
        {
            **_row(name, "number", group, label, declared[name].help),
            "minimum": declared[name].minimum,
            "maximum": declared[name].maximum,
            "unit": declared[name].unit,
            "default": declared[name].default,
        }
        for name, (group, label) in NUMBERS.items()
    ]
    others = {name: _row(name, name, *words) for name, words in OTHERS.items()}
    return [others.pop("keys"), *numbers, *others.values()]


def _row(name: str, kind: str, group: str, label: str, text: str) -> dict[str, Any]:
    identifier = f"CreativeUpscaler.{name}"
    return {"id": identifier, "name": name, "kind": kind, "group": group, "label": label, "help": text}


async def _tell(request: web.Request) -> web.Response:
    from ..pipelines.remote.settings import load_settings  # noqa: PLC0415

    try:
        values = _values(load_settings(remote_host.private_folder()))
    except UpscalerError as error:  # the rows are shown all the same, with this in place of values
        return web.json_response({"heading": HEADING, "rows": setting_rows(), "error": str(error)})
    return web.json_response({"heading": HEADING, "rows": setting_rows(), "values": values})


async def _change(request: web.Request) -> web.Response:
    from ..pipelines.remote.changing_settings import change_setting  # noqa: PLC0415

    folder = remote_host.private_folder()
    try:
        change = await read_change(request, folder)
        if isinstance(change, web.Response):
            return change
        if not isinstance(change.get("name"), str) or "value" not in change:
            return web.json_response({"error": "send name and value"}, status=400)
        settings = change_setting(folder, change["name"], change["value"])
    except UpscalerError as error:
        return web.json_response({"error": str(error)}, status=400)
    except OSError as error:
        return web.json_response({"error": f"the setting cannot be kept: {error.strerror}"}, status=500)
    return web.json_response({"values": _values(settings)})


def _values(settings: Any) -> dict[str, Any]:
    """Current values by name; of servers the addresses, without fal's own."""
    return {
        **{name: getattr(settings, name) for name in NUMBERS},
        "trusted_hosts": list(settings.trusted_hosts),
        "servers": {name: server.queue_url for name, server in settings.servers.items() if not server.is_fal},
    }
