"""Small models that many tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import tiny_checkpoints as tiny
from creative_upscaler.pipelines.models import CreativeModels, load_models
from fal_server import FalServer
from remote_calls import write_settings


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What several processes share out: the tests of one file, or those with one running ComfyUI."""
    for item in items:
        host = item.callspec.params.get("host") if hasattr(item, "callspec") else None
        item.add_marker(pytest.mark.xdist_group(host.name if host else item.path.name))


@pytest.fixture(scope="session")
def sd15_files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A tiny SD1.5 checkpoint and its tile ControlNet."""
    return _write(tmp_path_factory.mktemp("sd15"), "sd15")


@pytest.fixture(scope="session")
def sdxl_files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A tiny SDXL checkpoint and its tile ControlNet."""
    return _write(tmp_path_factory.mktemp("sdxl"), "sdxl")


def _write(folder: Path, family: tiny.Family) -> tuple[Path, Path]:
    base, controlnet = folder / "base.safetensors", folder / "tile.safetensors"
    tiny.write_checkpoint(base, family)
    tiny.write_controlnet(controlnet, family)
    return base, controlnet


@pytest.fixture(scope="session")
def sd15(sd15_files: tuple[Path, Path]) -> CreativeModels:
    return load_models(sd15_files[0], controlnet=sd15_files[1])


@pytest.fixture(scope="session")
def sdxl(sdxl_files: tuple[Path, Path]) -> CreativeModels:
    return load_models(sdxl_files[0], controlnet=sdxl_files[1])


@pytest.fixture
def fal() -> Iterator[FalServer]:
    """A local server that speaks fal's protocols."""
    with FalServer() as server:
        yield server


@pytest.fixture
def private_folder(tmp_path: Path, fal: FalServer) -> Path:
    """A private folder whose settings name that server `local`."""
    folder = tmp_path / "private"
    write_settings(folder, fal)
    return folder
