"""`creative-upscaler models` says what is published, gets it and verifies it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from creative_upscaler.cli import exit_codes, main, models
from creative_upscaler.pipelines import registry
from creative_upscaler.pipelines.registry import ModelFile, find_model, published_models
from hub_server import HubServer, running

WEIGHTS = save({"weight": torch.arange(1000.0)})
VAE = replace(
    find_model("sd15-vae"),
    repository="own/model",
    revision="main",
    files=(ModelFile(path="vae.safetensors"),),
)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    others = tuple(model for model in published_models() if model.name != VAE.name)
    for module in (registry, models):
        monkeypatch.setattr(module, "published_models", lambda: (VAE, *others))
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with running() as server:
        server.files = {"vae.safetensors": WEIGHTS}
        yield server


def test_the_list_names_all_models_and_what_is_here(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / "vae-ft-mse-840000-ema-pruned.safetensors").write_bytes(b"1")
    assert main(["models", "list", "--folder", str(tmp_path)]) == exit_codes.OK
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == [model.name for model in published_models()]
    assert "4.27 GB" in lines[1] and "CreativeML Open RAIL-M" in lines[1]
    assert [line.split()[0] for line in lines if "  yes  " in line] == ["sd15-vae"]
    assert main(["models", "list", "--json"]) == exit_codes.OK
    listed = json.loads(capsys.readouterr().out)
    assert {model["name"]: model["here"] for model in listed}["sd15"] == "?"


def test_a_model_is_got_after_its_licence_was_shown_and_verified(
    hub: HubServer, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    command = ["--folder", str(tmp_path), "--endpoint", hub.endpoint]
    assert main(["models", "get", VAE.name, *command]) == exit_codes.OK
    shown = capsys.readouterr().out
    assert "licence: MIT" in shown and VAE.page in shown
    assert (tmp_path / "vae" / "vae.safetensors").read_bytes() == WEIGHTS
    assert all("authorization" not in headers for _, headers in hub.asked), "a mirror gets no token"
    assert main(["models", "get", VAE.name, *command]) == exit_codes.OK
    assert "is here already" in capsys.readouterr().out
    assert main(["models", "verify", "--online", *command]) == exit_codes.OK
    assert "is the published file (SHA-256)" in capsys.readouterr().out
    (tmp_path / "vae" / "vae.safetensors").write_bytes(WEIGHTS[:-1] + b"x")
    assert main(["models", "verify", VAE.name, "--online", *command]) == exit_codes.MODEL_FILE_ERROR
    assert capsys.readouterr().out.startswith("BAD sd15-vae")


def test_what_cannot_be_got_is_told_and_the_rest_is_got(
    hub: HubServer, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    command = ["--folder", str(tmp_path), "--endpoint", hub.endpoint]
    assert main(["models", "get", "sd15", VAE.name, *command]) == exit_codes.MODEL_FILE_ERROR
    assert "stable-diffusion-v1-5" in capsys.readouterr().err
    assert (tmp_path / "vae" / "vae.safetensors").exists()
    assert main(["models", "get", "sd9", *command]) == exit_codes.USAGE_ERROR
    assert "known are sd15-vae" in capsys.readouterr().err


def test_listing_does_not_wait_for_torch() -> None:
    program = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parents[1])!r}); import conftest\n"
        "from creative_upscaler.cli import main; main(['models', 'list'])\n"
        "assert not {'torch', 'diffusers', 'huggingface_hub'} & set(sys.modules), 'imported'"
    )
    done = subprocess.run((sys.executable, "-c", program), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
