"""The service's error answers in words that name the field."""

from __future__ import annotations

from typing import Any

from .scrubbing import Scrubber
from .transport import Answer

LONGEST = 300
"""Characters of one message. What a field was given as (`input`) may be a whole picture and is left out."""

HINTS = {
    401: "check the key",
    402: "the account's balance is used up",
    403: "the key lacks the right, or the account's balance is used up",
    404: "check the endpoint's name",
    413: "the picture is too large",
    429: "too many requests; lower the concurrency",
}


def describe_refusal(answer: Answer, scrub: Scrubber) -> tuple[str, dict[str, str]]:
    """The message of an error answer, and those that are about a field, by its name."""
    content = answer.json()
    detail: Any = content.get("detail", content) if isinstance(content, dict) else content
    fields: dict[str, str] = {}
    if isinstance(detail, list):
        parts = []
        for entry in [entry for entry in detail if isinstance(entry, dict)][:10]:
            location = entry.get("loc")
            names = [str(name) for name in location if name != "body"] if isinstance(location, list) else []
            message = scrub(entry.get("msg", "is not accepted"), LONGEST)
            kind = scrub(entry.get("type", ""), 60)
            name = scrub(".".join(names), 60)
            if name:
                fields[name] = message
            parts.append(f"{name}: {message}" if name else message)
            if kind:
                parts[-1] += f" ({kind})"
        text = "; ".join(parts)
    elif isinstance(detail, dict):
        text = scrub(detail.get("message") or detail.get("error") or "", LONGEST)
    elif detail is not None:
        text = scrub(detail, LONGEST)
    else:
        # A page of some proxy: not worth showing.
        text = "" if b"<" in answer.body[:200] else scrub(answer.body[:600].decode(errors="replace"), LONGEST)
    kind = answer.headers.get("x-fal-error-type", "")
    if not kind and isinstance(content, dict):
        kind = content.get("error_type", "")
    if kind:
        text = f"{text} ({scrub(kind, 60)})"
    text = text.strip() or "no reason was given"
    hint = HINTS.get(answer.status)
    return f"{text} [HTTP {answer.status}{'; ' + hint if hint else ''}]", fields
