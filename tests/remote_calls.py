"""What the tests of the remote part share: a private folder, pictures and a run against the local server."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from creative_upscaler.pipelines.parameters import UpscaleParameters
from creative_upscaler.pipelines.remote.options import RemoteOptions
from creative_upscaler.pipelines.remote.payload import make_arguments
from creative_upscaler.pipelines.remote.preparing import RemotePicture, Upscaled
from creative_upscaler.pipelines.remote.requests import Event, ignore
from creative_upscaler.pipelines.remote.upscaling import RemoteUpscaler
from fal_server import KEY, FalServer

APP = "fal-ai/creative-upscaler"
ENDPOINT = f"local:{APP}"


def photo(seed: int = 0, *, height: int = 24, width: int = 32, channels: int = 3) -> Tensor:
    """A picture of 8-bit values, `[1,C,H,W]`."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (1, channels, height, width), generator=generator) / 255


def write_settings(folder: Path, server: FalServer, **changes: Any) -> None:
    """Make the server known as `local`; changes to its entry have names ending in _url or are lists."""
    limits = {name: changes.pop(name) for name in list(changes) if name.startswith(("max_", "cache_"))}
    settings = {"servers": {"local": server.settings(**changes)}, **limits}
    folder.mkdir(exist_ok=True)
    (folder / "settings.json").write_text(json.dumps(settings))


def options(**changes: Any) -> RemoteOptions:
    return RemoteOptions(
        **{"endpoint": ENDPOINT, "poll_seconds": 0.02, "unreachable_seconds": 2.0, **changes}
    )


def remote(
    folder: Path, *, key: str = KEY, report: Callable[[Event], None] = ignore, **changes: Any
) -> RemoteUpscaler:
    environment = {"FAL_KEY": key} if key else {}
    return RemoteUpscaler(folder=folder, environment=environment, options=options(**changes), report=report)


def pictures(images: Sequence[Tensor], *, seed: int | None = 7, **settings: Any) -> list[RemotePicture]:
    parameters = UpscaleParameters(**settings)
    return [
        RemotePicture(
            arguments=make_arguments(parameters, seed=seed if seed is None else seed + number),
            label=f"picture {number + 1}",
            image=image,
        )
        for number, image in enumerate(images)
    ]


def upscale(
    server: FalServer,
    folder: Path,
    images: Sequence[Tensor],
    *,
    seed: int | None = 7,
    report: Callable[[Event], None] = ignore,
    key: str = KEY,
    settings: dict[str, Any] | None = None,
    **changes: Any,
) -> list[Upscaled]:
    """One run in an event loop of its own, as a host does it."""

    async def run() -> list[Upscaled]:
        async with remote(folder, key=key, report=report, **changes) as remote_upscaler:
            return await remote_upscaler.upscale(pictures(images, seed=seed, **(settings or {})))

    return asyncio.run(run())


def all_bytes(folder: Path) -> bytes:
    """Everything that was written below a folder."""
    paths = [Path(root) / name for root, _, names in os.walk(folder) for name in names]
    return b"\n".join(str(path).encode() + path.read_bytes() for path in paths)
