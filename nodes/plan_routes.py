"""The HTTP route that tells a page the plan of a node before it runs.

    POST   /creative_upscaler/plan   what `upscale_plan.describe_plan` takes, as JSON

It changes nothing, loads nothing and answers this ComfyUI's own pages only.
"""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

from aiohttp import web
from server import PromptServer

from ..pipelines.errors import ParameterError
from .remote_routes import LONGEST_BODY, PATH, read_object


def register_plan_routes() -> None:
    """Add the route to the running server."""
    PromptServer.instance.routes.post(f"{PATH}/plan")(_plan)


async def _plan(request: web.Request) -> web.Response:
    from .upscale_plan import describe_plan  # noqa: PLC0415  with the nodes, not before them

    if not is_own_page(request):
        return web.json_response({"error": "only ComfyUI's own page is told the plan"}, status=403)
    asked = await read_object(request)
    try:
        if asked is None:
            raise ValueError(f"send a JSON table of at most {LONGEST_BODY} bytes")
        # In a thread: the shapes in a model file are read when it is asked about for the first time.
        answer = await asyncio.to_thread(describe_plan, asked)
    except (ValueError, TypeError, RecursionError, ParameterError) as error:
        return web.json_response({"error": str(error)}, status=400)
    return web.json_response(answer)


def is_own_page(request: web.Request) -> bool:
    """Whether a page of this server asks, or a program; a foreign page cannot send this content type."""
    origin = urlsplit(request.headers.get("Origin", ""))
    return (
        request.content_type == "application/json"
        and request.headers.get("Sec-Fetch-Site", "same-origin") == "same-origin"
        and (not origin.netloc or origin.netloc.lower() == request.host.lower())
    )
