"""LoRA files of every kind give a UNet the weights that ComfyUI gives it.

Not DoRA by rows: there ComfyUI takes the norms before the change and we, as the paper and peft, after it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import tiny_checkpoints as tiny
from creative_upscaler.pipelines.models.loras import LoraStack, read_lora
from ldm_layout import unet_to_ldm
from lora_files import CONVOLUTIONS, OTHERS, TRANSFORMER, Parts, kohya_file, kohya_parts, random

SCRIPT = Path(__file__).with_name("merge_with_comfyui.py")
FAMILIES = {"sd15": "SD15", "sdxl": "SDXL"}


def locon_tucker(shape: torch.Size) -> Parts:
    if len(shape) == 2 or shape[-1] == 1:
        return kohya_parts(shape)
    return {
        "lora_up.weight": random(shape[0], 4, 1, 1),
        "lora_mid.weight": random(4, 4, *shape[2:]),
        "lora_down.weight": random(4, shape[1], 1, 1),
        "alpha": torch.tensor(3.0),
    }


def loha(shape: torch.Size) -> Parts:
    inside = shape[1:].numel()
    return {
        "hada_w1_a": random(shape[0], 4),
        "hada_w1_b": random(4, inside),
        "hada_w2_a": random(shape[0], 4),
        "hada_w2_b": random(4, inside),
        "alpha": torch.tensor(3.0),
    }


def loha_tucker(shape: torch.Size) -> Parts:
    if len(shape) == 2:
        return loha(shape)
    sides = {f"hada_w{side}_{end}": random(4, shape[end == "b"]) for side in (1, 2) for end in "ab"}
    cores = {f"hada_t{side}": random(4, 4, *shape[2:]) for side in (1, 2)}
    return {**sides, **cores, "alpha": torch.tensor(3.0)}


def lokr(shape: torch.Size) -> Parts:
    return {
        "lokr_w1": random(4, 4),
        "lokr_w2": random(shape[0] // 4, shape[1] // 4, *shape[2:]),
        "alpha": torch.tensor(3.0),
    }


def lokr_factored(shape: torch.Size) -> Parts:
    return {
        "lokr_w1_a": random(4, 2),
        "lokr_w1_b": random(2, 4),
        "lokr_w2_a": random(shape[0] // 4, 3),
        "lokr_w2_b": random(3, shape[1:].numel() // 4),
        "alpha": torch.tensor(2.0),
    }


def dora(make: Callable[[torch.Size], Parts]) -> Callable[[torch.Size], Parts]:
    """By columns, with another norm for each."""
    return lambda shape: {**make(shape), "dora_scale": torch.rand(1, shape[1], *[1] * (len(shape) - 2)) + 0.5}


KINDS = {
    "lora": kohya_parts,
    "locon tucker": locon_tucker,
    "loha": loha,
    "loha tucker": loha_tucker,
    "lokr": lokr,
    "lokr factored": lokr_factored,
    "dora": dora(kohya_parts),
    "dora of loha": dora(loha),
    "dora of lokr": dora(lokr_factored),
}
STACK = ("dora", "loha", "dora of lokr")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """UNets, LoRA files and the list of merges: SD1.5 in diffusers' names, SDXL in the original code's."""
    folder = tmp_path_factory.mktemp("loras")
    torch.manual_seed(0)
    merges: dict[str, dict[str, object]] = {}
    for family in FAMILIES:
        unet = tiny.make_models(family).unet
        save_file(
            {key: value.contiguous() for key, value in unet_to_ldm(unet.state_dict()).items()},
            folder / f"{family}.safetensors",
        )
        for kind, make in KINDS.items():
            targets = TRANSFORMER + CONVOLUTIONS + (OTHERS if kind == "lora" else ())
            tensors = kohya_file({"unet": unet}, targets, sgm=family == "sdxl", make=make)
            save_file(tensors, folder / f"{family} {kind}.safetensors")
            merges[f"{family} {kind}"] = {"family": family, "loras": [[f"{family} {kind}.safetensors", -0.7]]}
        files = [
            [f"{family} {kind}.safetensors", strength]
            for kind, strength in zip(STACK, (1.0, 0.4, -0.6), strict=True)
        ]
        merges[f"{family} stack"] = {"family": family, "loras": files}
    (folder / "job.json").write_text(json.dumps({"families": FAMILIES, "merges": merges}))
    return folder


@pytest.fixture(scope="module")
def merged(host: Path, work: Path) -> Path:
    """`work`, with what this ComfyUI made of it."""
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, str(SCRIPT), str(work)]
    done = subprocess.run(command, cwd=host, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    assert "not loaded" not in done.stderr.lower(), done.stderr[-4000:]
    return work


@pytest.mark.parametrize("kind", [*KINDS, "stack"])
@pytest.mark.parametrize("family", FAMILIES)
def test_weights_are_merged_as_in_comfyui(merged: Path, family: tiny.Family, kind: str) -> None:
    unet = tiny.make_models(family).unet
    before = {key: value.clone() for key, value in unet_to_ldm(unet.state_dict()).items()}
    job = json.loads((merged / "job.json").read_text())
    files = job["merges"][f"{family} {kind}"]["loras"]
    LoraStack({"unet": unet}).apply([(read_lora(merged / file), strength) for file, strength in files])
    ours = unet_to_ldm(unet.state_dict())
    theirs = load_file(merged / f"{family} {kind}.merged.safetensors")
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert len([key for key in theirs if not torch.equal(theirs[key], before[key])]) > 150
