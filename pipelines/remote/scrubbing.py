"""Takes secrets out of texts before anybody sees them."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable
from urllib.parse import quote

MARK = "[removed]"

_AUTHORIZATION = re.compile(r"\b(Key|Bearer|Basic|Token)\s+[^\s'\",}]+", re.IGNORECASE)
_DATA_URI = re.compile(r"data:[\w.+-]*/[\w.+-]+[^,\s]{0,80},[A-Za-z0-9+/=_%-]*")
# Signed addresses carry their secret in the query, or before an @.
_QUERY = re.compile(r"(https?://[^\s'\"<>?#]+)[?#][^\s'\"<>]*", re.IGNORECASE)
_USER = re.compile(r"(https?://)[^\s/@'\"<>]+@", re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f]")


class Scrubber:
    """Removes known keys, and whatever looks like one, from texts."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._secrets: list[str] = []
        for secret in secrets:
            self.add(secret)

    def add(self, secret: str) -> None:
        """Remove this one too from now on, and each half of an `id:secret`."""
        forms = set(self._secrets)
        for part in {secret, *secret.split(":")}:
            if len(part) >= 6:
                forms |= {part, quote(part, safe=""), base64.b64encode(part.encode()).decode()}
        self._secrets = sorted(forms, key=len, reverse=True)

    def __call__(self, text: object, limit: int = 2000) -> str:
        """`text` without keys, authorizations, queries of addresses, data URIs and control characters."""
        clean = str(text)
        for secret in self._secrets:
            clean = clean.replace(secret, MARK)
        clean = _DATA_URI.sub("data:" + MARK, clean)
        clean = _USER.sub(r"\1", clean)
        clean = _QUERY.sub(r"\1", clean)
        clean = _AUTHORIZATION.sub(lambda match: f"{match[1]} {MARK}", clean)
        clean = _CONTROL.sub(" ", clean)
        return clean if len(clean) <= limit else clean[:limit] + " ..."

    def __repr__(self) -> str:
        return f"Scrubber({len(self._secrets)} forms)"
