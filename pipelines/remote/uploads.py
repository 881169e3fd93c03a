"""How a picture gets to the service: inside the request, or into fal's storage.

The storage protocol is that of fal's own clients: a short-lived token from the REST host, then the bytes to
the CDN with that token. The key never goes to the CDN.
"""

from __future__ import annotations

import asyncio
import base64
from dataclasses import dataclass
from typing import Any

from .errors import CredentialError, RemoteError, TimeLimitError
from .messages import describe_refusal
from .transport import LostError, NotSentError, Transport, backoff, is_temporary, origin

DATA_URI_BYTES = 256 * 2**10
"""Pictures up to this size travel inside the request."""
MULTIPART_BYTES = 100 * 2**20
PART_BYTES = 10 * 2**20
PARTS_AT_ONCE = 4
ATTEMPTS = 3
FILE_NAME = "image.png"


def data_uri(png: bytes) -> str:
    """The picture as an address that holds it."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


@dataclass
class Uploader:
    """Puts pictures into the storage of `transport`'s server."""

    transport: Transport
    keep_hours: int = 24
    multipart_bytes: int = MULTIPART_BYTES
    part_bytes: int = PART_BYTES

    async def upload(self, png: bytes, *, seconds: float) -> str:
        """Upload within `seconds`; returns the picture's address.

        Raises `RemoteError`, `TimeLimitError` and `CredentialError`.
        """
        try:
            return await asyncio.wait_for(self._upload(png), seconds)
        except asyncio.TimeoutError:
            raise TimeLimitError(
                f"uploading {len(png)} bytes took more than {seconds:g} s (transfer_timeout); "
                "nothing was submitted"
            ) from None

    async def _upload(self, png: bytes) -> str:
        token, base = await self._token()
        headers = {"Authorization": token, "Content-Type": "image/png", "X-Fal-File-Name": FILE_NAME}
        if self.keep_hours:
            headers["X-Fal-Object-Lifecycle"] = f'{{"expiration_duration_seconds": {self.keep_hours * 3600}}}'
        if len(png) > self.multipart_bytes:
            return await self._upload_parts(png, base, headers)
        content, _ = await self._send("POST", f"{base}/files/upload", png, headers)
        return self._access_url(content, base)

    async def _token(self) -> tuple[str, str]:
        server = self.transport.server
        url = f"{server.rest_url}/storage/auth/token?storage_type=fal-cdn-v3"
        answer = await self.transport.send_safely("POST", url, patience=20, body={}, seconds=30)
        content = answer.json()
        if answer.status != 200 or not isinstance(content, dict):
            text, _ = describe_refusal(answer, self.transport.scrub)
            kind = CredentialError if answer.status in (401, 403) else RemoteError
            raise kind(f"the service gives no right to upload: {text}")
        token, name = content.get("token"), content.get("token_type")
        if not isinstance(token, str) or not isinstance(name, str) or not (name + token).isprintable():
            raise RemoteError("the service's upload token cannot be understood")
        self.transport.scrub.add(token)
        base = str(content.get("base_url") or server.cdn_url).rstrip("/")
        if origin(base) != origin(server.cdn_url) and not _is_fal_media(base):
            raise RemoteError(f"refused to upload to {self.transport.scrub(origin(base))}")
        return f"{name} {token}", base

    async def _upload_parts(self, png: bytes, base: str, headers: dict[str, str]) -> str:
        content, _ = await self._send("POST", f"{base}/files/upload/multipart", b"", headers)
        url = self._access_url(content, base)
        upload = content.get("uploadId")
        if not isinstance(upload, str) or not upload.replace("-", "").replace("_", "").isalnum():
            raise RemoteError("the storage's answer to an upload in parts cannot be understood")
        gate = asyncio.Semaphore(PARTS_AT_ONCE)

        async def send_part(number: int) -> dict[str, Any]:
            start = (number - 1) * self.part_bytes
            async with gate:
                _, etag = await self._send(
                    "PUT", f"{url}/multipart/{upload}/{number}", png[start : start + self.part_bytes], headers
                )
            return {"partNumber": number, "etag": etag}

        count = -(-len(png) // self.part_bytes)
        tasks = [asyncio.create_task(send_part(number)) for number in range(1, count + 1)]
        try:
            parts = await asyncio.gather(*tasks)
        except BaseException:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            raise
        complete = {**headers, "Content-Type": "application/json"}
        await self._send("POST", f"{url}/multipart/{upload}/complete", {"parts": list(parts)}, complete)
        return url

    async def _send(self, method: str, url: str, body: Any, headers: dict[str, str]) -> tuple[Any, str]:
        """To the CDN, without the key; repeated when it fails, for an upload costs nothing."""
        for number in range(ATTEMPTS):
            try:
                answer = await self.transport.send(
                    method, url, authorized=False, body=body, headers=headers, seconds=3600
                )
                if not is_temporary(answer):
                    break
                reason = f"it answered {answer.status}"
            except (NotSentError, LostError) as error:
                reason = str(error)
            if number + 1 == ATTEMPTS:
                raise RemoteError(f"the picture cannot be uploaded: {reason}; nothing was submitted")
            await asyncio.sleep(backoff(number))
        if not 200 <= answer.status < 300:
            text, _ = describe_refusal(answer, self.transport.scrub)
            raise RemoteError(f"the storage refuses the picture: {text}; nothing was submitted")
        return answer.json(), answer.headers.get("etag", "")

    def _access_url(self, content: Any, base: str) -> str:
        url = content.get("access_url") if isinstance(content, dict) else None
        if not isinstance(url, str) or not (origin(url) == origin(base) or _is_fal_media(url)):
            raise RemoteError("the storage's answer to an upload cannot be understood")
        return url


def _is_fal_media(url: str) -> bool:
    host = origin(url)
    return host.startswith("https://") and host.split(":")[1].endswith(".fal.media")
