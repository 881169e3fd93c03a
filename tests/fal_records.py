"""What the local server keeps of what it was asked, and faults that it is to show."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Call:
    """One request that arrived."""

    name: str
    method: str
    path: str
    host: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Any = None


@dataclass
class Fault:
    """What goes wrong with a request, before it is acted on or, with `after`, when it was."""

    status: int = 0
    body: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    drop: bool = False
    after: bool = False
    seconds: float = 0.0


@dataclass
class Job:
    """A submitted request."""

    id: str
    app: str
    arguments: dict[str, Any]
    created: float
    headers: dict[str, str]
    webhook: str = ""
    cancelled_at: float = 0.0
    is_held: bool = False
    error: tuple[int, Any, dict[str, str]] | None = None
