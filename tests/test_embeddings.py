from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from diffusers.loaders.textual_inversion import (
    TextualInversionLoaderMixin,
    load_textual_inversion_state_dicts,
)
from safetensors.torch import save_file
from torch import Tensor, nn

from creative_upscaler.pipelines.errors import ModelFileError
from creative_upscaler.pipelines.models.embeddings import read_embedding

SD15 = {"clip_l": 768}
SDXL = {"clip_l": 768, "clip_g": 1280}
L, G = torch.randn(3, 768), torch.randn(3, 1280)


def a1111(vectors: Tensor, table: type = dict) -> dict[str, object]:
    """The layout of A1111's training, in which old files have a ParameterDict."""
    return {
        "string_to_token": {"*": 265},
        "string_to_param": table({"*": nn.Parameter(vectors) if table is nn.ParameterDict else vectors}),
        "name": "whatever",
        "step": 4999,
        "sd_checkpoint": None,
        "sd_checkpoint_name": None,
    }


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("word.pt", a1111(L)),
        ("word.pt", a1111(L, nn.ParameterDict)),
        ("word.safetensors", {"emb_params": L}),
        ("word.bin", {"<cat-toy>": L}),
        ("word.safetensors", {"<cat-toy>": L}),
        ("word.safetensors", {"clip_l": L}),
    ],
    ids=["A1111", "old A1111", "A1111 safetensors", "diffusers", "diffusers safetensors", "named"],
)
def test_sd15_file_gives_its_vectors(name: str, content: Mapping[str, object], tmp_path: Path) -> None:
    embedding = read_embedding(save(tmp_path / name, content), SD15)
    assert embedding.token == "word"
    assert list(embedding.vectors) == ["clip_l"]
    assert torch.equal(embedding.vectors["clip_l"], L)
    assert not embedding.vectors["clip_l"].requires_grad


@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("word.safetensors", ("clip_l", "clip_g")),
        ("word.pt", ("clip_l", "clip_g")),
        ("word.safetensors", ("text_encoders_0", "text_encoders_1")),
        ("word.safetensors", ("no", "names")),
    ],
)
def test_sdxl_file_gives_a_pair(name: str, names: tuple[str, str], tmp_path: Path) -> None:
    path = save(tmp_path / name, dict(zip(names, (L, G), strict=True)))
    vectors = read_embedding(path, SDXL).vectors
    assert set(vectors) == {"clip_l", "clip_g"}
    assert torch.equal(vectors["clip_l"], L) and torch.equal(vectors["clip_g"], G)


def test_half_precision_and_single_vectors_become_float32_rows(tmp_path: Path) -> None:
    path = save(tmp_path / "word.bin", {"<a>": L[0].half()})
    vectors = read_embedding(path, SD15).vectors["clip_l"]
    assert vectors.dtype == torch.float32
    assert torch.equal(vectors, L[:1].half().float())


def test_the_word_is_the_file_name_in_lower_case(tmp_path: Path) -> None:
    path = save(tmp_path / "Bad.Dream-V2.safetensors", {"emb_params": L})
    assert read_embedding(path, SD15).token == "bad.dream-v2"


@pytest.mark.parametrize(
    ("name", "content"),
    [("word.pt", a1111(L)), ("word.safetensors", {"emb_params": L}), ("word.bin", {"<cat-toy>": L})],
)
def test_the_vectors_are_those_that_diffusers_reads(
    name: str, content: Mapping[str, object], tmp_path: Path
) -> None:
    path = save(tmp_path / name, content)
    without_words = SimpleNamespace(get_vocab=dict)
    _, theirs = TextualInversionLoaderMixin._retrieve_tokens_and_embeddings(
        ["word"], load_textual_inversion_state_dicts([str(path)]), without_words
    )
    assert torch.equal(read_embedding(path, SD15).vectors["clip_l"], theirs[0])


@pytest.mark.parametrize(
    ("content", "widths", "reason"),
    [
        ({"emb_params": torch.ones(2, 1024)}, SD15, r"is for SD 2\.x \(width 1024\).* needs 768 \(clip_l\)"),
        ({"emb_params": torch.ones(2, 1024)}, SDXL, r"needs 768 \(clip_l\) and 1280 \(clip_g\)"),
        ({"clip_l": L, "clip_g": G}, SD15, r"is for SDXL \(width 1280 for clip_g\)"),
        (
            {"emb_params": L},
            SDXL,
            r"vectors for clip_l \(width 768\) only, the loaded model also needs clip_g",
        ),
        ({"clip_g": L, "clip_l": G}, SDXL, "choose one made for it"),
        ({"emb_params": torch.ones(2, 33)}, SD15, r"is for another model \(width 33\)"),
        ({"<a>": L, "<b>": L + 1}, SD15, r"has several words; .*<b> is the second"),
        ({"emb_params": torch.ones(0, 768)}, SD15, r"emb_params is \[0, 768\], not \[n, width\]"),
        ({"emb_params": torch.ones(1, 2, 768)}, SD15, r"emb_params is \[1, 2, 768\], not \[n, width\]"),
        ({"emb_params": torch.ones(2, 768, dtype=torch.int64)}, SD15, "is no textual inversion"),
        ({"emb_params": torch.full((2, 768), torch.nan)}, SD15, "not finite"),
        ({}, SD15, "has no tensors"),
    ],
)
@pytest.mark.parametrize("name", ["word.safetensors", "word.pt"])
def test_file_that_cannot_be_used_says_why(
    content: dict[str, Tensor], widths: dict[str, int], reason: str, name: str, tmp_path: Path
) -> None:
    path = save(tmp_path / name, content)
    with pytest.raises(ModelFileError, match=rf"{name}: .*{reason}"):
        read_embedding(path, widths)


class Hostile:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("harm"),)  # type: ignore[return-value]


@pytest.mark.parametrize("how", ["zip", "plain pickle"])
def test_a_file_that_would_run_a_program_is_refused(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "word.pt"
    content = {"string_to_param": {"*": L}, "name": Hostile()}
    if how == "zip":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))
    with pytest.raises(ModelFileError, match=r"word\.pt: "):
        read_embedding(path, SD15)
    assert not (tmp_path / "harm").exists()


def save(path: Path, content: Mapping[str, object]) -> Path:
    if path.suffix == ".safetensors":
        save_file(content, path)  # type: ignore[arg-type]
    else:
        torch.save(content, path)
    return path
