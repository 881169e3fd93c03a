"""A prompt gives the conditioning that ComfyUI's own text encoders give with the same weights."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from creative_upscaler.pipelines.prompt_notation import read_weights
from creative_upscaler.pipelines.prompting import ENCODER_KEYS, encode_prompts
from creative_upscaler.pipelines.runtime import LocalMemory, Runtime
from tiny_text_models import make_text_models

SCRIPT = Path(__file__).with_name("encode_with_comfyui.py")
MODELS = {family: make_text_models(family) for family in ("sd15", "sdxl")}
PROMPTS = {
    "empty": "",
    "short": "a photo of a cat, łódź 😀",
    "exactly one chunk": "cat " * 75,
    "one word more": "cat " * 75 + "dog",
    "cut inside a word": "cat " * 74 + "supercalifragilisticexpialidocious dog",
    "three chunks": "a very long prompt about one red house, " * 20,
    "weights": r"a (red:1.4) house, ((very (old))), \(1990\), (dark:-0.5) (un(finished:0) thing",
    "short weighted words move to the next chunk": "cat " * 74 + "(two words:1.2), (more of them:0.8) end",
    "long weighted text is cut": "cat " * 70 + "(one two three four five six seven eight nine:1.3) end",
    "weights in all chunks": "(cat:1.3) " * 50 + ("dog " * 40 + "(house:0.7)") * 3,
    "embedding": "a embedding:wobble, (embedding:bad-hands-5:1.3) and more",
    "embedding with extension": "embedding:wobble.safetensors house",
    "embedding at the end of a chunk": "cat " * 73 + "embedding:wobble end",
    "embedding in the second chunk": "cat " * 100 + "(of embedding:bad-hands embedding:mob-of-12:1.2)",
}
NOTATION_ALPHABET = ("(", "(", ")", ")", "\\(", "\\)", "\\", ":", ":1.5", "a", " ", "b-c", "-.5")


@dataclass
class Comfy:
    """What one ComfyUI answered."""

    answers: dict[str, np.ndarray]
    weights: list[list[tuple[str, float]]]


@pytest.fixture(scope="module")
def notation() -> list[str]:
    generator = random.Random(0)
    return ["".join(generator.choices(NOTATION_ALPHABET, k=generator.randint(1, 14))) for _ in range(3000)]


@pytest.fixture(scope="module")
def comfy(host: Path, notation: list[str], tmp_path_factory: pytest.TempPathFactory) -> Comfy:
    work = tmp_path_factory.mktemp("prompts")
    job = {"families": {family: write_models(work, family) for family in MODELS}, "notation": notation}
    (work / "job.json").write_text(json.dumps(job))
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, str(SCRIPT), str(work)]
    done = subprocess.run(command, cwd=host, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return Comfy(dict(np.load(work / "answers.npz")), json.loads((work / "weights.json").read_text()))


def write_models(work: Path, family: str) -> dict:
    """Write weights and textual inversions where the script looks for them; return its task."""
    models = MODELS[family]
    configs = {}
    for name, encoder in zip(ENCODER_KEYS, models.text_encoders, strict=False):
        configs[name] = encoder.module.config.to_dict()
        tensors = encoder.module.state_dict()
        if not any(key.startswith("text_model.") for key in tensors):
            tensors = {f"text_model.{key}": tensor for key, tensor in tensors.items()}
        save_file(tensors, work / f"{family}.{name}.safetensors")
    (work / family).mkdir()
    for name, embedding in models.embeddings.items():
        save_file(embedding.vectors, work / family / f"{name}.safetensors")
    return {"configs": configs, "prompts": list(PROMPTS.values())}


def encode(models: SimpleNamespace, prompt: str) -> SimpleNamespace:
    return encode_prompts(models, [prompt], Runtime(LocalMemory(torch.device("cpu"))))[0]


@pytest.mark.parametrize("name", PROMPTS)
@pytest.mark.parametrize("family", MODELS)
def test_a_prompt_is_encoded_as_in_comfyui(comfy: Comfy, family: str, name: str) -> None:
    index = list(PROMPTS).index(name)
    ours = encode(MODELS[family], PROMPTS[name])
    theirs = comfy.answers[f"{family}.{index}.hidden"]
    assert ours.hidden.shape == theirs.shape
    np.testing.assert_allclose(ours.hidden, theirs, atol=1e-4)
    if family == "sdxl":
        np.testing.assert_allclose(ours.pooled, comfy.answers[f"{family}.{index}.pooled"], atol=1e-4)


def test_any_nesting_of_weights_is_read_as_in_comfyui(comfy: Comfy, notation: list[str]) -> None:
    for prompt, theirs in zip(notation, comfy.weights, strict=True):
        assert read_weights(prompt) == [tuple(run) for run in theirs], prompt
