"""CCSR's published files: every tensor has a use or a reason, and what does not fit is refused."""

from __future__ import annotations

import json
import shutil
import sys
import types
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import ccsr_files
import tiny_checkpoints
from creative_upscaler.pipelines.ccsr.loading import CcsrModels, load_ccsr
from creative_upscaler.pipelines.errors import ModelFileError
from creative_upscaler.pipelines.models import architectures
from creative_upscaler.pipelines.models.parts import Part
from creative_upscaler.pipelines.runtime import LocalMemory

CPU = LocalMemory(torch.device("cpu"))


@pytest.fixture(scope="module", autouse=True)
def reference_heads():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(architectures, "HEAD_WIDTH", ccsr_files.HEAD_WIDTH)
        yield


@pytest.fixture(scope="module")
def v1_file(tmp_path_factory: pytest.TempPathFactory, reference_heads: None) -> Path:
    """With a text tower of three blocks, of which the last is without effect."""
    path = tmp_path_factory.mktemp("v1") / "real-world_ccsr.safetensors"
    ccsr_files.write_v1(path, ccsr_files.open_clip_tensors(ccsr_files.text_tower(16)), **ccsr_files.SMALL)
    return path


@pytest.fixture(scope="module")
def v2_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("v2")
    ccsr_files.write_v2(folder, **ccsr_files.SMALL)
    return folder


def same_weights(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    theirs = other.state_dict()
    return all(torch.equal(tensor, theirs[key]) for key, tensor in one.state_dict().items())


def test_every_tensor_of_the_published_v1_file_has_its_place(tmp_path, monkeypatch):
    """The full-size names and shapes, as a file whose weights are a hole; only the encoders are read."""
    shapes = json.loads((ccsr_files.FIXTURES / "keys_v1_full_config.json").read_text())
    header, end = {}, 0
    for key, shape in shapes.items():
        size = 2 * torch.Size(shape).numel()
        header[key] = {"dtype": "F16", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    path, text = tmp_path / "full.safetensors", json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    monkeypatch.setattr(architectures, "HEAD_WIDTH", 64)
    monkeypatch.setattr(Part, "tensors", Part.shapes)
    models = load_ccsr(path, memory=LocalMemory(torch.device("cpu"), diffusion_dtype=torch.float16))
    assert models.condition_vae is models.vae
    counts = [sum(p.numel() for p in network.parameters()) for network in models.networks]
    # Version 1's ControlNet has one bias less; it is the one tensor made here.
    assert counts == [865_910_724, 363_153_280 + 320, 83_653_863]
    assert models.unet.config.attention_head_dim == [5, 10, 20, 20]
    assert models.prompts[""].shape == (1, 77, 1024)


def test_v1_in_every_published_form_is_the_same_model(v1_file, tmp_path, monkeypatch):
    tensors = load_file(v1_file)
    half = {key: tensor.half() for key, tensor in tensors.items()}
    save_file(half, tmp_path / "half.safetensors")
    torch.save(_as_lightning(half, monkeypatch), tmp_path / "half.ckpt")
    monkeypatch.undo()  # the class is gone when the file is read
    full, *halves = (
        load_ccsr(path, memory=CPU)
        for path in (v1_file, tmp_path / "half.safetensors", tmp_path / "half.ckpt")
    )
    assert same_weights(halves[0].unet, halves[1].unet)
    assert same_weights(halves[0].controlnet, halves[1].controlnet)
    weight = full.controlnet.controlnet_cond_embedding.weight
    stored = tensors["control_model.input_blocks.0.0.weight"]
    assert torch.equal(weight, stored[:, 4:])
    assert torch.equal(full.controlnet.conv_in.weight, stored[:, :4])
    torch.testing.assert_close(
        halves[0].vae.decoder.conv_in.weight, full.vae.decoder.conv_in.weight, atol=1e-3, rtol=0
    )


def _as_lightning(tensors, monkeypatch):
    """What Lightning saves beside the weights; its class must not be needed for reading."""
    name = "pytorch_lightning.callbacks.model_checkpoint"
    module = types.ModuleType(name)
    checkpoint = type("ModelCheckpoint", (), {"__module__": name})
    module.ModelCheckpoint = checkpoint
    monkeypatch.setitem(sys.modules, name, module)
    parent = types.ModuleType("pytorch_lightning")
    for part in ("pytorch_lightning", "pytorch_lightning.callbacks"):
        monkeypatch.setitem(sys.modules, part, parent)
    return {"state_dict": tensors, "callbacks": {checkpoint: {"best": 1.0}}, "optimizer_states": []}


def test_the_empty_prompt_is_all_77_tokens_of_the_text_tower(v1_file, v2_folder):
    tower = ccsr_files.text_tower(16)
    ids = torch.tensor([[49406, 49407, *[0] * 75]])
    with torch.no_grad():
        states = tower(ids, output_hidden_states=True).hidden_states[-2]
        final = getattr(tower, "text_model", tower).final_layer_norm
        expected = final(states)
    models = load_ccsr(v1_file, memory=CPU)
    assert models.text_encoders == ()
    torch.testing.assert_close(models.prompts[""], expected, atol=1e-5, rtol=0)


def test_a_trained_condition_encoder_is_kept_apart(v1_file, tmp_path):
    tensors = load_file(v1_file)
    tensors["cond_encoder.encoder.conv_in.weight"] += 1
    save_file(tensors, tmp_path / "x.safetensors")
    models = load_ccsr(tmp_path / "x.safetensors", memory=CPU)
    difference = models.condition_vae.encoder.conv_in.weight - models.vae.encoder.conv_in.weight
    torch.testing.assert_close(difference, torch.ones_like(difference))
    assert same_weights(models.condition_vae.decoder, models.vae.decoder)


def test_v2_loads_from_folders_and_files_and_on_a_v1_base(v1_file, v2_folder, tmp_path):
    def load(controlnet: Path, vae: Path | None, base: Path) -> CcsrModels:
        return load_ccsr(controlnet=controlnet, vae=vae, base=base, memory=CPU)

    folders = load(v2_folder / "controlnet", v2_folder / "vae", v2_folder / "base")
    stored = load_file(v2_folder / "controlnet" / "diffusion_pytorch_model.safetensors")
    left_over = {"controlnet_cond_embedding.conv_in.weight": torch.zeros(16, 3, 3, 3)}
    save_file(stored | left_over, tmp_path / "control.safetensors")
    vae = shutil.copy(v2_folder / "vae" / "diffusion_pytorch_model.safetensors", tmp_path / "vae.safetensors")
    files = load(tmp_path / "control.safetensors", Path(vae), v1_file)
    assert same_weights(folders.controlnet, files.controlnet)
    assert same_weights(folders.vae, files.vae)
    assert same_weights(files.unet, load_ccsr(v1_file, memory=CPU).unet)
    assert torch.equal(
        folders.controlnet.controlnet_cond_embedding.weight, stored["condition_conv_in.weight"]
    )


class _Hostile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_what_is_not_ccsr_is_refused_and_never_executed(v1_file, v2_folder, tmp_path):
    tensors, trace = load_file(v1_file), tmp_path / "executed"
    torch.save({"state_dict": tensors, "callbacks": _Hostile(trace)}, tmp_path / "hostile.ckpt")
    save_file(tensors | {"mystery.weight": torch.zeros(1)}, tmp_path / "unknown.safetensors")
    missing = {key: value for key, value in tensors.items() if "zero_convs.11" not in key}
    save_file(missing, tmp_path / "missing.safetensors")
    silent = {key: value for key, value in tensors.items() if "cond_stage" not in key}
    save_file(silent, tmp_path / "silent.safetensors")
    short = {"cond_stage_model.emb": torch.zeros(1, 2, 16)}
    save_file(silent | short, tmp_path / "short.safetensors")
    tiny_checkpoints.write_sd15(tmp_path / "sd15.safetensors")
    for name, reason in {
        "hostile.ckpt": "could run",
        "unknown.safetensors": "no CCSR v1 has, such as mystery.weight",
        "missing.safetensors": "incomplete",
        "silent.safetensors": "neither a text encoder",
        "short.safetensors": r"\[1, 77, 16\] belongs",
        "sd15.safetensors": "is an SD 1.x base model, not a CCSR v1 checkpoint",
    }.items():
        with pytest.raises(ModelFileError, match=reason) as caught:
            load_ccsr(tmp_path / name, memory=CPU)
        assert name in str(caught.value)
    assert not trace.exists()
    with pytest.raises(ModelFileError, match="not a CCSR v1 checkpoint; this is the ControlNet of CCSR v2"):
        load_ccsr(v2_folder / "controlnet" / "diffusion_pytorch_model.safetensors", memory=CPU)
    with pytest.raises(ModelFileError, match="needs Stable Diffusion 2"):
        load_ccsr(controlnet=v2_folder / "controlnet", base=tmp_path / "sd15.safetensors", memory=CPU)
    with pytest.raises(ValueError, match="give a checkpoint for CCSR v1"):
        load_ccsr(memory=CPU)
