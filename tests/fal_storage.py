"""The storage of the local server: upload tokens, uploads whole and in parts, downloads."""

from __future__ import annotations

import uuid

from aiohttp import web

TOKEN = "upload-token-55d2"
"""What uploads are made with, in place of the key."""


class FalStorage:
    """The handlers of fal's REST and CDN hosts."""

    port: int

    def __init__(self) -> None:
        self.files: dict[str, tuple[bytes, str]] = {}
        """Content and type of everything uploaded or made, by name."""
        self.parts: dict[str, dict[int, bytes]] = {}

    async def _token(self, request: web.Request) -> web.Response:
        content = {
            "token": TOKEN,
            "token_type": "Bearer",
            "base_url": f"http://localhost:{self.port}/cdn",
            "expires_at": "2099-01-01T00:00:00+00:00",
        }
        return web.json_response(content)

    def _check_token(self, request: web.Request) -> None:
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            raise web.HTTPUnauthorized

    def _new_file(self) -> tuple[str, str]:
        name = uuid.uuid4().hex + ".png"
        return name, f"http://localhost:{self.port}/cdn/file/{name}"

    async def _upload(self, request: web.Request) -> web.Response:
        self._check_token(request)
        name, url = self._new_file()
        self.files[name] = (await request.read(), request.headers.get("Content-Type", ""))
        return web.json_response({"access_url": url})

    async def _multipart(self, request: web.Request) -> web.Response:
        self._check_token(request)
        name, url = self._new_file()
        self.parts[name] = {}
        return web.json_response({"access_url": url, "uploadId": "upload-1"})

    async def _part(self, request: web.Request) -> web.Response:
        self._check_token(request)
        number = int(request.match_info["part"])
        self.parts[request.match_info["name"]][number] = await request.read()
        return web.Response(headers={"ETag": f'"part-{number}"'})

    async def _complete(self, request: web.Request) -> web.Response:
        self._check_token(request)
        name, listed = request.match_info["name"], (await request.json())["parts"]
        numbers = [part["partNumber"] for part in listed]
        assert sorted(numbers) == sorted(self.parts[name])
        assert all(part["etag"].strip('"') == f"part-{part['partNumber']}" for part in listed)
        content = b"".join(self.parts[name][number] for number in sorted(numbers))
        self.files[name] = (content, "image/png")
        return web.json_response({})

    async def _initiate(self, request: web.Request) -> web.Response:
        name, url = self._new_file()
        signed = f"http://localhost:{self.port}/cdn/signed/{name}?signature=secret"
        return web.json_response({"upload_url": signed, "file_url": url})

    async def _signed(self, request: web.Request) -> web.Response:
        self.files[request.match_info["name"]] = (await request.read(), "image/png")
        return web.Response()

    async def _file(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if name not in self.files:
            raise web.HTTPNotFound
        data, kind = self.files[name]
        return web.Response(body=data, headers={"Content-Type": kind})

    async def _elsewhere(self, request: web.Request) -> web.Response:
        return web.json_response({"detail": f"no such route: {request.path}"}, status=404)
