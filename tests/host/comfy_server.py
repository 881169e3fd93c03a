"""Starts real ComfyUI servers, each in a process of its own and with everything it writes in one folder.

In the test process the top-level modules of a host (`nodes`, `utils`, `tests`) would meet ours.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError

from comfy_client import ComfyClient

ROOT = Path(__file__).parents[2]
PACK = "pack-with-hyphens"
TINY_MODELS = Path(__file__).with_name("tiny_models_node.py")
"""A node that gives tiny models, in every server."""
START_SECONDS = 240

TEMPLATES_STUB = """
# ComfyUI before 0.3.68 looks for a folder that newer releases of this package no longer have.
def iter_templates(): return iter(())
def get_asset_path(*names): raise FileNotFoundError(names)
"""


def find_hosts() -> list[Path]:
    """Every ComfyUI in COMFYUI_PATH (several joined as in PATH), else at ~/ComfyUI*."""
    named = os.environ.get("COMFYUI_PATH")
    if named:
        folders = [Path(entry) for entry in named.split(os.pathsep)]
    else:
        folders = sorted(Path.home().glob("ComfyUI*"))
    return [folder.resolve() for folder in folders if (folder / "main.py").is_file()]


@dataclass
class Server:
    """A running ComfyUI with this pack in it."""

    folder: Path
    """Holds input, models, output and custom_nodes."""
    client: ComfyClient
    log: Path

    def models(self, kind: str) -> Path:
        return self.folder / "models" / kind


@contextmanager
def running(host: Path, folder: Path, models: Path, starter: Path | None = None) -> Iterator[Server]:
    """A server of `host` on the CPU, with previews on. Raises `RuntimeError` with its log if it fails.

    `starter` takes the place of the pack's folder of that name.
    """
    for name in ("input", "output", "temp", "user", "custom_nodes"):
        (folder / name).mkdir()
    (folder / "models").symlink_to(models)
    (folder / "custom_nodes" / PACK).mkdir()
    for part in ROOT.iterdir():
        if part.name not in (".git", "starter"):
            (folder / "custom_nodes" / PACK / part.name).symlink_to(part)
    (folder / "custom_nodes" / PACK / "starter").symlink_to(starter or ROOT / "starter")
    (folder / "custom_nodes" / TINY_MODELS.name).symlink_to(TINY_MODELS)
    port, log = free_port(), folder / "log.txt"
    environment = host_environment(folder)
    with log.open("w") as output:
        process = subprocess.Popen(
            command(host, folder, port), cwd=host, env=environment, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            client = ComfyClient(f"127.0.0.1:{port}")
            wait_until_ready(client, process, log)
            yield Server(folder, client, log)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=30)


def command(host: Path, folder: Path, port: int) -> list[str]:
    """What starts ComfyUI."""
    # fmt: off
    return [
        sys.executable, str(host / "main.py"), "--cpu", "--listen", "127.0.0.1", "--port", str(port),
        "--base-directory", str(folder), "--database-url", f"sqlite:///{folder / 'user' / 'test.db'}",
        "--disable-auto-launch", "--disable-api-nodes", "--preview-method", "auto",
    ]
    # fmt: on


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def host_environment(folder: Path) -> dict[str, str]:
    """The environment of a host process: offline, and writing nothing into its own folder."""
    stub = folder / "stubs" / "comfyui_workflow_templates"
    (stub / "templates").mkdir(parents=True)
    (stub / "__init__.py").write_text(TEMPLATES_STUB)
    ours = {"PYTHONPATH": str(stub.parent), "PYTHONDONTWRITEBYTECODE": "1", "HF_HUB_OFFLINE": "1"}
    return {**os.environ, **ours}


def wait_until_ready(client: ComfyClient, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        try:
            client.get("/system_stats")
            return
        except (URLError, ConnectionError):
            time.sleep(0.2)
    raise RuntimeError(f"ComfyUI did not start:\n{log.read_text()[-4000:]}")
