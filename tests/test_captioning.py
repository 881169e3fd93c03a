"""Captioners of every kind through the real path, offline; captions as prompts."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from skimage import data
from transformers import AutoProcessor

import tiny_captioners as tiny
from creative_upscaler.pipelines.caption_settings import CaptionSettings, make_prompt
from creative_upscaler.pipelines.captioner_folders import best_captioner
from creative_upscaler.pipelines.captioning import caption, load_captioner
from creative_upscaler.pipelines.errors import Cancelled, ModelFileError, ParameterError
from creative_upscaler.pipelines.runtime import LocalMemory, Runtime

CPU = LocalMemory(torch.device("cpu"))
SHORT = CaptionSettings(max_tokens=10)
WRITERS = {
    "opt": lambda folder: tiny.write_blip2(folder),
    "opt_old": lambda folder: tiny.write_blip2(folder, image_token=False),
    "t5": lambda folder: tiny.write_blip2(folder, language="t5"),
    "florence2": tiny.write_florence2,
    "blip": tiny.write_blip,
}


@pytest.fixture(scope="session")
def folders(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("captioners")
    return {name: write(root / name) for name, write in WRITERS.items()}


@pytest.fixture(scope="session")
def captioners(folders):
    return {name: load_captioner(folder, CPU) for name, folder in folders.items()}


@pytest.fixture(scope="session")
def pictures() -> torch.Tensor:
    """An astronaut and a cat, `[2,3,128,160]`."""
    files = [Image.fromarray(picture).resize((160, 128)) for picture in (data.astronaut(), data.chelsea())]
    return torch.from_numpy(np.stack([np.asarray(file) for file in files])).permute(0, 3, 1, 2) / 255


@pytest.mark.parametrize("name", WRITERS)
def test_a_caption_tells_of_its_own_picture_alone_and_always_the_same(captioners, pictures, name):
    captioner = captioners[name]
    both = caption(pictures, captioner, SHORT)
    assert caption(pictures[1:], captioner, SHORT) == both[1:]
    assert caption(pictures.flip(0), captioner, SHORT) == both[::-1]
    # A captioner that is not shown the picture writes one text for all.
    assert both[0] != both[1] and all(both)


@pytest.mark.parametrize("name", ["opt", "t5", "florence2", "blip"])
def test_captions_are_those_of_the_models_own_processor(folders, captioners, pictures, name):
    processor, captioner = AutoProcessor.from_pretrained(folders[name]), captioners[name]
    picture = Image.fromarray((pictures[0] * 255).round().byte().permute(1, 2, 0).numpy())
    asked = {"blip": {}, "florence2": {"text": "<DETAILED_CAPTION>"}}.get(name, {"text": ""})
    inputs = processor(images=picture, return_tensors="pt", **asked)
    if name == "t5":
        assert inputs["input_ids"][0].tolist()[:-1] == [captioner.model.config.image_token_index] * 4
    length = 0 if name in ("t5", "florence2", "blip") else inputs["input_ids"].shape[1]
    output = captioner.model.generate(
        **inputs, max_new_tokens=10, num_beams=3, do_sample=False, no_repeat_ngram_size=3
    )
    expected = processor.decode(output[0][length:], skip_special_tokens=True).strip()
    settings = CaptionSettings(max_tokens=10, strip_words="")
    assert expected and caption(pictures[:1], captioner, settings) == [make_prompt(expected, settings)]


def test_a_folder_without_an_image_token_is_repaired(folders, captioners, pictures):
    """transformers itself shows such a model no picture and says nothing."""
    config = json.loads((folders["opt_old"] / "config.json").read_text())
    assert config["image_token_index"] is None
    state = torch.get_rng_state()
    load_captioner(folders["opt_old"], CPU)
    assert torch.equal(torch.get_rng_state(), state)
    rows = captioners["opt"].model.get_input_embeddings().num_embeddings
    assert captioners["opt_old"].model.get_input_embeddings().num_embeddings == rows
    assert caption(pictures, captioners["opt_old"], SHORT) == caption(pictures, captioners["opt"], SHORT)


def test_a_processor_without_query_tokens_is_not_needed(folders, captioners, pictures, tmp_path):
    """transformers' processor leaves the picture out where `num_query_tokens` is missing."""
    folder = Path(shutil.copytree(folders["opt"], tmp_path / "opt"))
    settings = json.loads((folder / "processor_config.json").read_text())
    assert settings.pop("num_query_tokens") == 4
    (folder / "processor_config.json").write_text(json.dumps(settings))
    captions = caption(pictures, load_captioner(folder, CPU), SHORT)
    assert captions == caption(pictures, captioners["opt"], SHORT)


@pytest.mark.parametrize("name", ["t5", "florence2"])
def test_half_precision_keeps_what_would_overflow(folders, pictures, name):
    class Half(LocalMemory):
        def dtype(self, role):
            return torch.float16

    memory = Half(torch.device("cpu"))
    captioner = load_captioner(folders[name], memory)
    kinds = {key: parameter.dtype for key, parameter in captioner.model.named_parameters()}
    assert torch.float16 in kinds.values()
    if name == "t5":
        kept = [key for key in kinds if ".wo." in key or "qformer" in key]
        assert kept and all(kinds[key] == torch.float32 for key in kept)
    assert len(caption(pictures, captioner, SHORT, Runtime(memory))) == 2


def test_every_token_is_told_and_can_stop_the_work(captioners, pictures):
    told = []
    caption(pictures, captioners["florence2"], SHORT, Runtime(CPU, lambda *report: told.append(report)))
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)
    assert {total for _, _, total in told} == {20} and len(told) > 10

    def stop(stage, done, total, preview=None):
        if done == 3:
            raise Cancelled

    with pytest.raises(Cancelled):
        caption(pictures, captioners["florence2"], SHORT, Runtime(CPU, stop))


def test_large_pictures_are_shown_small_and_odd_ones_whole(captioners, monkeypatch):
    seen = []
    captioner = captioners["blip"]
    process = captioner.image_processor
    object.__setattr__(
        captioner, "image_processor", lambda images, **kw: seen.append(images.size) or process(images, **kw)
    )
    try:
        for shape in ((1, 3, 40, 1600), (1, 4, 9, 7), (1, 1, 1, 1)):
            caption(torch.rand(shape), captioner, SHORT)
    finally:
        object.__setattr__(captioner, "image_processor", process)
    assert seen == [(768, 19), (7, 9), (1, 1)]


def test_length_chooses_the_task_of_florence(captioners, pictures):
    lengths = ("brief", "detailed", "more_detailed")
    settings = [CaptionSettings(length=length, max_tokens=10) for length in lengths]
    texts = [caption(pictures[:1], captioners["florence2"], each)[0] for each in settings]
    assert len(set(texts)) == 3


def damage(folder: Path, name: str) -> None:
    config = json.loads((folder / "config.json").read_text())
    weights = folder / "model.safetensors"
    if name == "no config.json":
        (folder / "config.json").unlink()
    elif name == "first layout":
        config["vision_config"]["model_type"] = "davit"
        (folder / "config.json").write_text(json.dumps(config))
    elif name == "of type bert":
        (folder / "config.json").write_text(json.dumps(config | {"model_type": "bert"}))
    elif name == "sets attn_implementation":
        config["text_config"]["attn_implementation"] = "somebody/kernels"
        (folder / "config.json").write_text(json.dumps(config))
    elif name == "no weights":
        weights.unlink()
    elif name == "truncated":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif name == "pickle":
        torch.save({"a": torch.ones(1)}, weights)
    elif name == "leads out":
        weights.unlink()
        index = {"weight_map": {"a": "../x.safetensors"}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    else:
        tensors = load_file(weights)
        key = next(key for key in tensors if key.endswith("q_proj.weight"))
        if name == "lacks 1":
            del tensors[key]
        else:
            tensors[key][0, 0] = torch.nan
        save_file(tensors, weights, metadata={"format": "pt"})


FAULTS = ("no config.json", "first layout", "of type bert", "no weights", "truncated", "pickle", "leads out")


@pytest.mark.parametrize("fault", [*FAULTS, "sets attn_implementation", "lacks 1", "not finite"])
def test_a_folder_that_cannot_be_trusted_is_named_and_refused(folders, tmp_path, fault):
    folder = Path(shutil.copytree(folders["florence2"], tmp_path / "model"))
    damage(folder, fault)
    with pytest.raises(ModelFileError, match=fault) as failure:
        load_captioner(folder, CPU)
    assert str(folder) in str(failure.value)


def test_program_code_in_a_folder_is_not_run(folders, tmp_path):
    folder = Path(shutil.copytree(folders["blip"], tmp_path / "model"))
    trace = tmp_path / "was_run"
    (folder / "code.py").write_text(f"open({str(trace)!r}, 'w')\nclass Code: pass\n")
    for name in ("config.json", "tokenizer_config.json", "processor_config.json"):
        table = json.loads((folder / name).read_text())
        classes = ("AutoModel", "AutoConfig", "AutoProcessor", "AutoImageProcessor")
        table["auto_map"] = dict.fromkeys(classes, "code.Code") | {"AutoTokenizer": ["code.Code", None]}
        (folder / name).write_text(json.dumps(table))
    with suppress(ModelFileError):  # refusing is as good
        load_captioner(folder, CPU)
    assert not trace.exists()


def test_weights_of_nothing_but_tensors_load_from_a_pickle(folders, captioners, pictures, tmp_path):
    folder = Path(shutil.copytree(folders["opt"], tmp_path / "opt"))
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    captions = caption(pictures, load_captioner(folder, CPU), SHORT)
    assert captions == caption(pictures, captioners["opt"], SHORT)


def test_the_best_captioner_is_found(folders, tmp_path):
    present = [folders["blip"], tmp_path, folders["opt"], tmp_path / "missing", folders["florence2"]]
    assert best_captioner(present) == folders["florence2"]
    assert best_captioner(present[:-1]) == folders["opt"]
    assert best_captioner([tmp_path]) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a blurry photo of a cat on a chair", "a cat on a chair"),
        ("A Blurry Photo of a  cat", "a cat"),
        ("The image shows a dog. The image is blurry and the background is blurred.", "a dog."),
        ("a grainy, low quality street, pixelated", "a street"),
        ("an unblurryable thing", "an unblurryable thing"),
        ("a sign that says (stop)", r"a sign that says \(stop\)"),
        ("pixelated", ""),
    ],
)
def test_words_about_a_bad_picture_do_not_reach_the_prompt(text, expected):
    assert make_prompt(text, CaptionSettings()) == expected


def test_the_caption_is_put_into_the_template():
    settings = CaptionSettings(template="(photo:1.2) of {caption}, sharp", strip_words="red,  tall\nold man")
    assert (
        make_prompt("a tall red house with an old man", settings) == "(photo:1.2) of a house with an, sharp"
    )
    assert make_prompt("red", settings) == ""


@pytest.mark.parametrize(
    ("field", "value"),
    [("template", "a photo"), ("length", "epic"), ("max_tokens", 5000), ("strip_words", 3)],
)
def test_a_setting_that_is_not_allowed_is_named(field, value):
    with pytest.raises(ParameterError, match=field):
        CaptionSettings(**{field: value})
