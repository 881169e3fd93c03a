"""What else meets the tiled sampler inside ComfyUI; the broad matrix is in test_host_models.py."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from comfy_server import ROOT, host_environment

CHECKS = (
    "patched_control",
    "one_sample_at_a_time",
    "other_guidance",
    "exact_codec",
    "detail_like_the_engine",
    "prompts_of_pictures",
)


@pytest.fixture(scope="module")
def found(host: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("sampling")
    script, result = Path(__file__).with_name("run_host_models.py"), folder / "findings.json"
    command = [sys.executable, script, host, ROOT, result, *CHECKS]
    done = subprocess.run(command, cwd=folder, env=host_environment(folder), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    findings = json.loads(result.read_text())
    errors = [findings[name]["error"] for name in CHECKS if "error" in str(findings[name])]
    assert not errors, "\n".join(errors)
    return findings


def test_control_pictures_that_are_patched_into_a_model_are_cropped(found: dict[str, Any]) -> None:
    assert found["patched_control"]["hint"] < 1e-5
    assert found["patched_control"]["effect"] > 0.1


def test_one_tile_s_conditionings_are_evaluated_apart_where_memory_is_short(found: dict[str, Any]) -> None:
    assert found["one_sample_at_a_time"] < 1e-5


def test_guidance_of_every_kind_is_tiled(found: dict[str, Any]) -> None:
    assert found["other_guidance"] == {"perturbed": [[16, 16]], "three": [[16, 16]]}


def test_large_canvases_are_coded_as_comfyui_codes_small_ones(found: dict[str, Any]) -> None:
    for name in ("sd15", "flux"):
        assert max(found["exact_codec"][name]) < 1e-4, name
    assert found["exact_codec"]["qwen"] == [0.0]


def test_detail_is_the_engine_s(found: dict[str, Any]) -> None:
    assert found["detail_like_the_engine"]["to the engine's"] < 1e-6
    assert found["detail_like_the_engine"]["to none"] > 0.01


def test_pictures_have_prompts_of_their_own(found: dict[str, Any]) -> None:
    assert found["prompts_of_pictures"] == [0.0, 1.0, 0.0]
