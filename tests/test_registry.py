"""Every model known by name can be found, fetched from the hub, gone on with and verified."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from creative_upscaler.pipelines.errors import (
    Cancelled,
    DownloadError,
    DownloadRefused,
    ModelFileError,
    ParameterError,
)
from creative_upscaler.pipelines.registry import Model, ModelFile, find_model, model_of, published_models
from creative_upscaler.pipelines.registry.hub import Hub
from creative_upscaler.pipelines.registry.install import install_model, verify_model
from creative_upscaler.pipelines.runtime import silent
from hub_server import HubServer, running

WEIGHTS = save({"weight": torch.arange(1_000_000.0)})
SMALL = save({"weight": torch.ones(3)})
WANTED = {
    "sd15",
    "sdxl-base",
    "sd15-tile",
    "sdxl-tile",
    "ccsr-v1",
    "ccsr-v2-controlnet",
    "ccsr-v2-vae",
    "sd21-base",
    "blip2-opt",
    "blip2-flan-t5",
    "florence-2-base",
    "florence-2-large",
    "blip-large",
    "safety-checker",
    "sd15-detail-lora",
    "sdxl-detail-lora",
    "sd15-vae",
}
SINGLE = Model(
    name="single",
    title="",
    use="",
    page="https://page.test",
    licence="",
    folder="checkpoints",
    repository="own/model",
    files=(ModelFile(path="weights.safetensors", save_as="own.safetensors", size=len(WEIGHTS)),),
)
FOLDER = replace(
    SINGLE,
    name="folder",
    subfolder="own",
    files=(ModelFile(path="config.json"),),
    include=("*.json", "unet/*.safetensors"),
    weights=("unet",),
)


@pytest.fixture(scope="module")
def shared() -> Iterator[HubServer]:
    with running() as server:
        yield server


@pytest.fixture
def hub(shared: HubServer) -> HubServer:
    shared.files = {
        "weights.safetensors": WEIGHTS,
        "config.json": b"{}",
        "tokenizer.json": b"[]",
        "README.md": b"#",
        "pytorch_model.bin": b"pickle",
        "onnx/config.json": b"{}",
        "unet/model.safetensors": WEIGHTS,
        "unet/model.fp16.safetensors": SMALL,
    }
    shared.claimed, shared.dies_after, shared.ignores_ranges = {}, {}, False
    shared.asked.clear()
    return shared


def install(model: Model, server: HubServer, folder: Path, progress: object = silent) -> Path:
    return install_model(model, folder, progress=progress, hub=Hub(endpoint=server.endpoint))


def test_the_registry_is_complete_and_consistent() -> None:
    models = published_models()
    names = [model.name for model in models]
    assert set(names) >= WANTED and len(set(names)) == len(names)
    places = [(model.folder, model.location(Path())) for model in models]
    assert len(set(places)) == len(places)
    for model in models:
        assert model.page.startswith("https://") and model.licence and model.title and model.use
        assert model.repository is None or re.fullmatch(r"[\w.-]+/[\w.-]+", model.repository), model.name
        assert (model.subfolder is None) == (len(model.files) == 1 and not model.include), model.name
        assert model.used_by in ("upscale", "ccsr", "captions", "safety")
        assert bool(model.include) == bool(model.weights)
        for file in model.files:
            assert bool(file.url) != bool(model.repository), model.name
            assert file.url is None or (file.url.startswith("https://") and file.sha256), model.name
            assert file.sha256 is None or re.fullmatch(r"[0-9a-f]{64}", file.sha256), model.name
            assert file.size is None or file.size > 0
            assert not file.path.endswith((".bin", ".ckpt", ".pt", ".pth")), "only safetensors are fetched"
            # What is not known is said.
            text = " ".join(model.unchecked)
            assert file.sha256 or "sha256" in text, model.name
            assert file.size or "size" in text, model.name
        assert find_model(model.name) == model
        assert model_of(model.folder, model.location(Path()).name) == model
    with pytest.raises(ParameterError, match="known are sd15, "):
        find_model("sd9")


def test_a_file_is_fetched_from_the_hub_under_its_own_name(hub: HubServer, tmp_path: Path) -> None:
    told = []
    progress = lambda *values: told.append(values)  # noqa: E731
    assert SINGLE.missing(tmp_path) == ["own.safetensors"]
    found = install(SINGLE, hub, tmp_path / "checkpoints", progress)
    assert found == tmp_path / "checkpoints" / "own.safetensors" and found.read_bytes() == WEIGHTS
    assert SINGLE.missing(found.parent) == []
    assert ("downloading own.safetensors", len(WEIGHTS), len(WEIGHTS)) in told
    assert [path.name for path in found.parent.iterdir()] == ["own.safetensors"]
    asked = len(hub.asked)
    install(SINGLE, hub, found.parent)
    assert len(hub.asked) == asked
    assert all("authorization" not in headers for _, headers in hub.asked)


@pytest.mark.parametrize("ignores_ranges", [False, True])
def test_a_stopped_download_from_the_hub_fetches_only_the_rest(
    hub: HubServer, tmp_path: Path, ignores_ranges: bool
) -> None:
    def stop(stage: str, done: int, total: int, preview: object = None) -> None:
        if done >= 2**21:
            raise Cancelled

    with pytest.raises(Cancelled):
        install(SINGLE, hub, tmp_path, stop)
    assert SINGLE.missing(tmp_path)
    begun = (tmp_path / "own.safetensors.part").stat().st_size
    assert begun == 2**21
    hub.ignores_ranges = ignores_ranges
    assert install(SINGLE, hub, tmp_path).read_bytes() == WEIGHTS
    assert hub.ranges("weights.safetensors") == [None, f"bytes={begun}-"]


def test_a_folder_appears_only_when_all_of_it_is_there(hub: HubServer, tmp_path: Path) -> None:
    hub.dies_after["unet/model.safetensors"] = 2_000_000
    with pytest.raises(DownloadError):
        install(FOLDER, hub, tmp_path)
    assert not (tmp_path / "own").exists() and "config.json" in FOLDER.missing(tmp_path)
    hub.dies_after.clear()
    found = install(FOLDER, hub, tmp_path)
    files = sorted(path.relative_to(found).as_posix() for path in found.rglob("*") if path.is_file())
    assert files == ["config.json", "tokenizer.json", "unet/model.safetensors"]
    assert [path.name for path in tmp_path.iterdir()] == ["own"]


def test_what_the_registry_knows_otherwise_is_refused(hub: HubServer, tmp_path: Path) -> None:
    pinned = replace(SINGLE, files=(replace(SINGLE.files[0], sha256="0" * 64),))
    with pytest.raises(DownloadRefused, match=r"another weights\.safetensors"):
        install(pinned, hub, tmp_path)
    hub.claimed["weights.safetensors"] = "1" * 64
    with pytest.raises(DownloadRefused, match="is not the published file"):
        install(SINGLE, hub, tmp_path)
    hub.files["weights.safetensors"] = b"PK\x03\x04" + bytes(len(WEIGHTS) - 4)
    hub.claimed.clear()
    with pytest.raises(ModelFileError, match="pickle"):
        install(SINGLE, hub, tmp_path)
    assert not list(tmp_path.glob("*.safetensors")) and not list(tmp_path.glob("*.part"))


def test_a_repository_that_is_not_there_or_without_safetensors_is_told(
    hub: HubServer, tmp_path: Path
) -> None:
    with pytest.raises(DownloadError, match="own/gone"):
        install(replace(SINGLE, repository="own/gone"), hub, tmp_path)
    del hub.files["unet/model.safetensors"], hub.files["unet/model.fp16.safetensors"]
    with pytest.raises(DownloadError, match="no safetensors in unet"):
        install(FOLDER, hub, tmp_path)
    hub.files["../evil.json"] = b"{}"
    with pytest.raises(DownloadRefused, match="leads elsewhere"):
        install(replace(FOLDER, include=("*.json", "*/*.json"), weights=()), hub, tmp_path)


def test_a_token_is_that_of_the_caller(hub: HubServer, tmp_path: Path) -> None:
    install_model(SINGLE, tmp_path, progress=silent, hub=Hub(endpoint=hub.endpoint, token="hf_own"))
    assert {headers.get("authorization") for _, headers in hub.asked} == {"Bearer hf_own"}


def test_verifying_finds_what_was_changed(hub: HubServer, tmp_path: Path) -> None:
    found = install(FOLDER, hub, tmp_path)
    online = Hub(endpoint=hub.endpoint)
    assert all(finding.is_good for finding in verify_model(FOLDER, tmp_path, progress=silent, hub=online))
    assert all(finding.is_good for finding in verify_model(FOLDER, tmp_path, progress=silent))
    changed = bytearray(WEIGHTS)
    changed[-1] ^= 1
    (found / "unet/model.safetensors").write_bytes(changed)
    bad = [f for f in verify_model(FOLDER, tmp_path, progress=silent, hub=online) if not f.is_good]
    assert [finding.path.name for finding in bad] == ["model.safetensors"] and "SHA-256" in bad[0].text
    (found / "unet/model.safetensors").write_bytes(WEIGHTS[:-9])
    (found / "config.json").unlink()
    texts = [f.text for f in verify_model(FOLDER, tmp_path, progress=silent) if not f.is_good]
    assert texts[0] == "is missing" and "truncated" in texts[1]
    pinned = replace(SINGLE, files=(replace(SINGLE.files[0], sha256=hashlib.sha256(WEIGHTS).hexdigest()),))
    install(pinned, hub, tmp_path)
    assert [f.is_good for f in verify_model(pinned, tmp_path, progress=silent)] == [True]


def test_a_folder_whose_index_names_a_missing_piece_is_not_whole(tmp_path: Path) -> None:
    place = tmp_path / "own" / "unet"
    place.mkdir(parents=True)
    (tmp_path / "own" / "config.json").write_text("{}")
    (place / "model-00001-of-00002.safetensors").write_bytes(SMALL)
    weights = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (place / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weights}))
    assert FOLDER.missing(tmp_path) == ["model-00002-of-00002.safetensors"]
