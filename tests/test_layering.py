"""The house's rules that can be read off the sources."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HOST = {"comfy", "comfy_api", "comfy_execution", "comfy_extras", "folder_paths", "latent_preview", "server"}
"""Top-level modules of ComfyUI."""
LAYERS = {"pipelines": {"pipelines"}, "cli": {"cli", "pipelines"}, "nodes": {"nodes", "pipelines"}}
"""What each part of the pack may import of the pack."""

LIGHT = {
    f"pipelines.{name}"
    for name in (
        "parameters",
        "runtime",
        "errors",
        "planning",
        "caption_settings",
        "captioner_folders",
        "settings",
        "starter",
    )
} | {
    "pipelines.ccsr.settings",
    "pipelines.remote",
    *(f"pipelines.remote.{name}" for name in ("credentials", "errors", "options", "payload")),
}
"""Modules of the engine that import at most torch."""

SOURCES = sorted(path for part in LAYERS for path in (ROOT / part).rglob("*.py"))


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imported(path: Path) -> Iterator[str]:
    """Dotted names of all imports, those of the pack itself as `.part.module`."""
    package = path.relative_to(ROOT).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module or ""
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1]
            for alias in node.names:
                yield "." + ".".join([*base, *([node.module] if node.module else []), alias.name])


def test_there_is_something_to_check() -> None:
    assert {path.relative_to(ROOT).parts[0] for path in SOURCES} == set(LAYERS)


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_only_nodes_import_the_host(path: Path) -> None:
    if path.relative_to(ROOT).parts[0] != "nodes":
        assert [module for module in imported(path) if module.split(".")[0] in HOST] == []


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_layers_import_only_what_is_below_them(path: Path) -> None:
    allowed = LAYERS[path.relative_to(ROOT).parts[0]]
    own = [module for module in imported(path) if module.startswith(".")]
    assert [module for module in own if module.split(".")[1] not in allowed] == []
    # By its name the pack cannot be imported from a folder of ComfyUI's, which may be called anything.
    assert [
        module for module in imported(path) if module.split(".")[0] in {"creative_upscaler", *LAYERS}
    ] == []


@pytest.mark.parametrize("path", [p for p in SOURCES if p.is_relative_to(ROOT / "pipelines")], ids=name)
def test_the_engine_neither_prints_nor_reads_its_surroundings(path: Path) -> None:
    tree = ast.parse(path.read_text())
    called = [ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)]
    assert [
        f for f in called if f in ("print", "input", "torch.manual_seed", "torch.seed", "os.getenv")
    ] == []
    assert [f for f in called if f.endswith((".cuda", "random.seed"))] == []
    attributes = [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    assert "os.environ" not in attributes


def test_the_requirements_leave_torch_to_comfyui() -> None:
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    names = {line.split(">")[0].split("=")[0].split("[")[0].strip() for line in lines if line.strip()}
    assert names and not names & {"torch", "torchvision", "torchaudio"}


def test_nodes_use_the_engine_s_heavy_modules_only_when_they_run() -> None:
    for path in sorted((ROOT / "nodes").glob("*.py")):
        tree = ast.parse(path.read_text())
        top = [node.module for node in tree.body if isinstance(node, ast.ImportFrom) and node.level == 2]
        assert set(top) <= LIGHT, path.name
