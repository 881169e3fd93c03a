"""A server that speaks fal's queue, storage and price protocols over loopback, with faults on demand.

Written from fal's documentation and from what its own client sends; `test_remote_like_fal.py` runs that
client against it. Everything it was asked is in `calls`.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import threading
import time
import uuid
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web
from PIL import Image

from fal_records import Call, Fault, Job
from fal_storage import FalStorage

KEY = "sentinel-key-id-7f3a:sentinel-secret-9b1c"
"""The only key it takes; to be searched for where it must not be."""


class FalServer(FalStorage):
    """Start with `with FalServer() as server`; the settings may be changed at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.queue_seconds = 0.02
        self.run_seconds = 0.04
        self.hold = False
        """New requests run until `release`."""
        self.refuses_cancel = False
        self.key: str | None = KEY
        self.log_window = 300.0
        """Seconds that a line of the log is shown for, as fal does (300)."""
        self.log_every = 0.04
        self.prices: dict[str, tuple[float, str]] = {}
        self.paint: Callable[[Image.Image, dict[str, Any]], Image.Image] = enlarge
        self.output: Callable[[Job, dict[str, Any]], dict[str, Any]] = lambda job, output: output
        """Changes a result before it is told."""
        self.failure: tuple[int, Any, dict[str, str]] | None = None
        """Answer (status, JSON, headers) of the result of new requests."""
        self.calls: list[Call] = []
        self.jobs: dict[str, Job] = {}
        self.faults: defaultdict[str, deque[Fault]] = defaultdict(deque)
        """By the call's name: submit, status, stream, result, cancel, token, upload, part, price, file."""
        self.most_at_once = 0
        self._ready = threading.Event()

    def __enter__(self) -> FalServer:
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *error: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def settings(self, **changes: Any) -> dict[str, Any]:
        """An entry of settings.json for this server."""
        entry = {
            "queue_url": f"{self.url}/queue",
            "rest_url": f"{self.url}/rest",
            "price_url": f"{self.url}/price",
            "cdn_url": f"http://localhost:{self.port}/cdn",  # another host than the key may go to
            "credentials": ["default", "other"],
        }
        return {**entry, **changes}

    def named(self, name: str) -> list[Call]:
        return [call for call in self.calls if call.name == name]

    def release(self) -> None:
        self.hold = False
        for job in self.jobs.values():
            job.is_held = False

    def _serve(self) -> None:
        asyncio.run(self._run())

    async def _run(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        app = web.Application(client_max_size=2**30)
        route = app.router.add_route
        route("POST", "/rest/storage/auth/token", self._handler("token", self._token))
        route("POST", "/rest/storage/upload/initiate", self._handler("initiate", self._initiate))
        route("POST", "/cdn/files/upload", self._handler("upload", self._upload))
        route("POST", "/cdn/files/upload/multipart", self._handler("multipart", self._multipart))
        route("PUT", "/cdn/file/{name}/multipart/{upload}/{part}", self._handler("part", self._part))
        route(
            "POST", "/cdn/file/{name}/multipart/{upload}/complete", self._handler("complete", self._complete)
        )
        route("PUT", "/cdn/signed/{name}", self._handler("signed", self._signed))
        route("GET", "/cdn/file/{name}", self._handler("file", self._file))
        route("GET", "/results/{name}", self._handler("file", self._file))
        route("GET", "/price", self._handler("price", self._price))
        queue = "/queue/{owner}/{name}"
        route("GET", queue + "/requests/{id}/status", self._handler("status", self._status))
        route("GET", queue + "/requests/{id}/status/stream", self._handler("stream", self._stream))
        route("GET", queue + "/requests/{id}", self._handler("result", self._result))
        route("PUT", queue + "/requests/{id}/cancel", self._handler("cancel", self._cancel))
        route("POST", queue + "{tail:(/.*)?}", self._handler("submit", self._submit))
        route("*", "/{anything:.*}", self._handler("elsewhere", self._elsewhere))
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
        self._ready.set()
        await self._stop.wait()
        await runner.cleanup()

    def _handler(
        self, name: str, answer: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        needs_key = name in ("submit", "status", "stream", "result", "cancel", "token", "initiate", "price")

        async def handle(request: web.Request) -> web.StreamResponse:
            body = await request.read()
            headers = {key.lower(): value for key, value in request.headers.items()}
            call = Call(name, request.method, request.path, request.host, dict(request.query), headers)
            if headers.get("content-type", "").startswith("application/json") and body:
                call.body = json.loads(body)
            self.calls.append(call)
            if needs_key and self.key is not None and headers.get("authorization") != f"Key {self.key}":
                return web.json_response({"detail": "Invalid Authorization header"}, status=401)
            fault = self.faults[name].popleft() if self.faults[name] else Fault()
            if fault.seconds and not fault.after:
                await asyncio.sleep(fault.seconds)
            response = None
            if fault.after or not (fault.drop or fault.status):
                response = await answer(request)
            if fault.seconds and fault.after:
                await asyncio.sleep(fault.seconds)
            if fault.drop:
                assert request.transport is not None
                request.transport.abort()
                raise ConnectionResetError
            if fault.status:
                return web.Response(status=fault.status, text=fault.body, headers=fault.headers)
            assert response is not None
            return response

        return handle

    # queue

    async def _submit(self, request: web.Request) -> web.Response:
        arguments = await request.json()
        base = f"{request.match_info['owner']}/{request.match_info['name']}"
        job = Job(
            id=str(uuid.uuid4()),
            app=base + request.match_info["tail"],
            arguments=arguments,
            created=time.monotonic(),
            headers={name.lower(): value for name, value in request.headers.items()},
            webhook=request.query.get("fal_webhook", ""),
            is_held=self.hold,
            error=self.failure,
        )
        self.jobs[job.id] = job
        self.most_at_once = max(
            self.most_at_once, sum(self._state(j) != "COMPLETED" for j in self.jobs.values())
        )
        return web.json_response({**self._summary(job, request), "queue_position": 0})

    def _summary(self, job: Job, request: web.Request) -> dict[str, Any]:
        owner_and_name = "/".join(job.app.split("/")[:2])
        url = f"{request.scheme}://{request.host}/queue/{owner_and_name}/requests/{job.id}"
        urls = {"response_url": url, "status_url": f"{url}/status", "cancel_url": f"{url}/cancel"}
        return {"status": self._state(job), "request_id": job.id, **urls}

    def _state(self, job: Job) -> str:
        elapsed = time.monotonic() - job.created
        if job.cancelled_at:
            return "COMPLETED"
        if elapsed < self.queue_seconds:
            return "IN_QUEUE"
        if job.is_held or elapsed < self.queue_seconds + self.run_seconds:
            return "IN_PROGRESS"
        return "COMPLETED"

    def _find(self, request: web.Request) -> Job:
        job = self.jobs.get(request.match_info["id"])
        app = f"{request.match_info['owner']}/{request.match_info['name']}"
        if job is None or "/".join(job.app.split("/")[:2]) != app:
            raise web.HTTPNotFound(text='{"detail": "Request not found"}', content_type="application/json")
        return job

    def _logs(self, job: Job) -> list[dict[str, Any]]:
        """Lines made so far, of which only those of the last moments are shown."""
        elapsed = time.monotonic() - job.created - self.queue_seconds
        until = elapsed if self._state(job) == "IN_PROGRESS" else min(elapsed, self.run_seconds)
        lines = []
        for number in range(int(max(0.0, until) / self.log_every) + 1):
            if elapsed - number * self.log_every <= self.log_window:
                stamp = f"2026-01-01T00:00:{number:09.6f}Z"
                entry = {"message": f"step {number}", "level": "INFO", "source": "USER", "timestamp": stamp}
                lines.append(entry)
        return lines

    def _answer_status(self, job: Job, request: web.Request, *, logs: bool) -> dict[str, Any]:
        content = self._summary(job, request)
        if content["status"] == "IN_QUEUE":
            return {**content, "queue_position": 2}
        content["logs"] = self._logs(job) if logs else None
        if content["status"] == "COMPLETED":
            content["metrics"] = {"inference_time": self.run_seconds}
            if job.error is not None:
                content |= {"error": "failed", "error_type": job.error[2].get("X-Fal-Error-Type", "")}
        return content

    async def _status(self, request: web.Request) -> web.Response:
        job = self._find(request)
        logs = request.query.get("logs", "0") in ("1", "true", "True")
        content = self._answer_status(job, request, logs=logs)
        return web.json_response(content, status=200 if content["status"] == "COMPLETED" else 202)

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        job = self._find(request)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        told, last = 0, ""
        while True:
            content = self._answer_status(job, request, logs=True)
            logs = content.get("logs") or []
            if content["status"] != last or len(logs) > told:
                content["logs"], told, last = logs[told:], len(logs), content["status"]
                await response.write(f"data: {json.dumps(content)}\n\n".encode())
            if last == "COMPLETED":
                return response
            await asyncio.sleep(0.02)

    async def _result(self, request: web.Request) -> web.Response:
        job = self._find(request)
        headers = {"x-fal-request-id": job.id}
        if self._state(job) != "COMPLETED":
            detail = {"detail": "Request is still in progress"}
            return web.json_response(detail, status=400, headers=headers)
        if job.cancelled_at:
            return web.json_response({"detail": "Request was cancelled"}, status=499, headers=headers)
        if job.error is not None:
            status, content, extra = job.error
            return web.json_response(content, status=status, headers={**headers, **extra})
        seed = job.arguments.get("seed", 12345)
        picture = self.paint(self._picture(job.arguments["image_url"]), job.arguments)
        file = io.BytesIO()
        picture.save(file, format="PNG")
        name = f"{job.id}.png"
        self.files.setdefault(name, (file.getvalue(), "image/png"))
        image = {
            "url": f"{self.url}/results/{name}",
            "content_type": "image/png",
            "file_name": "../../evil.png",
            "file_size": len(file.getvalue()),
            "width": picture.width,
            "height": picture.height,
        }
        megapixels = picture.width * picture.height / 1e6
        headers["x-fal-billable-units"] = f"{megapixels:.4f}"
        return web.json_response(self.output(job, {"image": image, "seed": seed}), headers=headers)

    def _picture(self, url: str) -> Image.Image:
        if url.startswith("data:"):
            data = base64.b64decode(url.split(",")[1])
        elif url.rpartition("/")[2] in self.files:
            data = self.files[url.rpartition("/")[2]][0]
        else:
            return Image.new("RGB", (8, 8), "red")  # hosted elsewhere
        return Image.open(io.BytesIO(data))

    async def _cancel(self, request: web.Request) -> web.Response:
        job = self._find(request)
        if self._state(job) == "COMPLETED":
            return web.json_response({"status": "ALREADY_COMPLETED"}, status=400)
        if not self.refuses_cancel:
            job.cancelled_at = time.monotonic()
        return web.json_response({"status": "CANCELLATION_REQUESTED"}, status=202)

    async def _price(self, request: web.Request) -> web.Response:
        app = request.query["endpoint_id"]
        prices = []
        if app in self.prices:
            amount, unit = self.prices[app]
            prices = [{"endpoint_id": app, "unit_price": amount, "unit": unit, "currency": "USD"}]
        return web.json_response({"prices": prices, "next_cursor": None, "has_more": False})


def enlarge(picture: Image.Image, arguments: dict[str, Any]) -> Image.Image:
    """The picture `scale` times as large, in the size fal's schema promises."""
    scale = arguments.get("scale", 2)
    size = (round(picture.width * scale), round(picture.height * scale))
    return picture.resize(size, Image.Resampling.BICUBIC)
