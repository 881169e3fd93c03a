"""Model files are read exactly, and what is damaged, mislabelled or hostile is an error that says so."""

from __future__ import annotations

import json
import os
import pickle
import sys
import types
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from struct import pack

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from creative_upscaler.pipelines.errors import ModelFileError
from creative_upscaler.pipelines.models.files import (
    MAX_HEADER_BYTES,
    MAX_TENSORS,
    check_safetensors,
    read_header,
    read_metadata,
    read_tensors,
)

TENSORS = {
    "layer.weight": torch.arange(6.0).reshape(2, 3),
    "layer.half": torch.ones(2, dtype=torch.float16),
    "other.steps": torch.tensor(7),
    "layer.empty": torch.zeros(0),
}
F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def write_raw(path: Path, header: object, body: bytes = bytes(8), claimed: int | None = None) -> None:
    """A safetensors file from its parts; `header` as JSON text or as what becomes JSON."""
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    path.write_bytes(pack("<Q", len(text) if claimed is None else claimed) + text + body)


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        assert found[key].dtype == tensor.dtype and torch.equal(found[key], tensor)


def save_lightning(path: Path, legacy: bool = False) -> None:
    """As Lightning saves it: weights beside counters of numpy, callbacks and an optimizer."""
    callback = type("ModelCheckpoint", (), {"__module__": "pytorch_lightning.callbacks.model_checkpoint"})
    for name in ("pytorch_lightning", "pytorch_lightning.callbacks", callback.__module__):
        sys.modules[name] = types.ModuleType(name)
    sys.modules[callback.__module__].ModelCheckpoint = callback
    extras = {"epoch": 1, "best": np.float64(0.5), "size": np.int64(3), "callbacks": {callback: {"at": 1}}}
    content = {"state_dict": OrderedDict(TENSORS), "optimizer": {"lr": torch.tensor(1.0)}, **extras}
    try:
        torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    finally:
        for name in ("pytorch_lightning", "pytorch_lightning.callbacks", callback.__module__):
            del sys.modules[name]


WRITERS: dict[str, Callable[[Path], None]] = {
    "weights.safetensors": lambda path: save_file(TENSORS, path),
    "weights.pth": lambda path: torch.save(TENSORS, path),
    "legacy.pth": lambda path: torch.save(TENSORS, path, _use_new_zipfile_serialization=False),
    "lightning.ckpt": save_lightning,
    "legacy lightning.ckpt": lambda path: save_lightning(path, legacy=True),
    "safetensors inside.ckpt": lambda path: save_file(TENSORS, path),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_kind_of_file_gives_the_tensors_that_were_saved(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    WRITERS[name](path)
    assert_same(read_tensors(path), TENSORS)
    assert read_header(path) == {key: (tensor.dtype, tensor.shape) for key, tensor in TENSORS.items()}
    assert_same(read_tensors(path, "other."), {"steps": TENSORS["other.steps"]})


@pytest.mark.parametrize("name", WRITERS)
def test_tensors_do_not_depend_on_the_file_once_they_are_read(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    WRITERS[name](path)
    tensors = read_tensors(path)
    path.write_bytes(bytes(path.stat().st_size))
    assert_same(tensors, TENSORS)


def test_tables_inside_pickles_become_dotted_names(tmp_path: Path) -> None:
    vectors = torch.randn(2, 8)
    table = torch.nn.ParameterDict({"*": torch.nn.Parameter(vectors)})
    torch.save({"string_to_token": {"*": 265}, "string_to_param": table, "name": "cat"}, tmp_path / "cat.pt")
    found = read_tensors(tmp_path / "cat.pt")
    assert_same(found, {"string_to_param.*": vectors})
    assert not found["string_to_param.*"].requires_grad


def test_metadata_are_read(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "a.safetensors", metadata={"modelspec.prediction_type": "v"})
    torch.save(TENSORS, tmp_path / "a.pth")
    assert read_metadata(tmp_path / "a.safetensors") == {"modelspec.prediction_type": "v"}
    assert read_metadata(tmp_path / "a.pth") == {}


class Hostile:
    """Unpickled freely, it would leave a folder behind."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.folder),)


def dump_hostile(path: Path, save: Callable) -> None:
    save({"state_dict": TENSORS, "x": Hostile(path.parent / "it ran")}, path)


def plain_pickle(content: object, path: Path, protocol: int = 2) -> None:
    path.write_bytes(pickle.dumps(content, protocol))


def truncate(path: Path, save: Callable) -> None:
    save(TENSORS, path)
    path.write_bytes(path.read_bytes()[:-5])


def save_legacy(content: object, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


def with_value(value: float, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    return {"a": torch.zeros(3), "bad": torch.tensor([0.0, value]).to(dtype)}


HTML = "<!DOCTYPE html><html><body>Log in to download</body></html>"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n"
DUPLICATE = '{"a": 1, "a": 2}'
DAMAGED: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "missing": ("a.safetensors", lambda path: None, "cannot be opened"),
    "empty": ("a.safetensors", lambda path: path.write_bytes(b""), "is empty"),
    "web page": ("a.safetensors", lambda path: path.write_text(HTML), "is a web page"),
    "web page named ckpt": ("a.ckpt", lambda path: path.write_text("\n" + HTML), "is a web page"),
    "pointer": ("a.safetensors", lambda path: path.write_text(POINTER), "Git LFS pointer"),
    "noise": ("a.safetensors", lambda path: path.write_bytes(bytes(range(200))), "is neither"),
    "truncated": ("a.safetensors", lambda path: truncate(path, save_file), "is truncated"),
    "truncated in the header": (
        "a.safetensors",
        lambda path: write_raw(path, "{", claimed=900),
        "claims a header",
    ),
    "trailing bytes": (
        "a.safetensors",
        lambda path: write_raw(path, {"a": F32}, bytes(12)),
        "is damaged: it lists",
    ),
    "pickle as safetensors": ("a.safetensors", lambda path: torch.save(TENSORS, path), "under the name"),
    "old pickle as safetensors": ("a.safetensors", lambda path: save_legacy(TENSORS, path), "under the name"),
    "huge header": (
        "a.safetensors",
        lambda path: write_raw(path, '{"a": "' + " " * MAX_HEADER_BYTES + '"}'),
        "claims a header",
    ),
    "endless header": ("a.safetensors", lambda path: write_raw(path, "{}", claimed=2**63), "claims a header"),
    "too many tensors": (
        "a.safetensors",
        lambda path: write_raw(path, {str(n): {**F32, "shape": [0]} for n in range(MAX_TENSORS + 1)}),
        "lists 100001 tensors",
    ),
    "deep header": ("a.safetensors", lambda path: write_raw(path, '{"a":' + "[" * 10**5), "damaged header"),
    "not JSON": ("a.safetensors", lambda path: write_raw(path, "{a}"), "damaged header"),
    "not UTF-8": (
        "a.safetensors",
        lambda path: path.write_bytes(pack("<Q", 6) + b'{"\xff":1}'[:6] + bytes(8)),
        "damaged header",
    ),
    "duplicate key": ("a.safetensors", lambda path: write_raw(path, DUPLICATE), "'a' is there twice"),
    "unknown type": (
        "a.safetensors",
        lambda path: write_raw(path, {"a": {**F32, "dtype": "C64"}}),
        "entry of a is wrong",
    ),
    "entry is no table": ("a.safetensors", lambda path: write_raw(path, {"a": 3}), "entry of a is wrong"),
    "negative size": (
        "a.safetensors",
        lambda path: write_raw(path, {"a": {**F32, "shape": [-2]}}),
        "no count",
    ),
    "size of text": (
        "a.safetensors",
        lambda path: write_raw(path, {"a": {**F32, "shape": ["2"]}}),
        "no count",
    ),
    "size too large": (
        "a.safetensors",
        lambda path: write_raw(path, {"a": {**F32, "shape": [2**40, 2**40]}}),
        "does not fit its shape",
    ),
    "overlap": ("a.safetensors", lambda path: write_raw(path, {"a": F32, "b": F32}), "overlap"),
    "hole": (
        "a.safetensors",
        lambda path: write_raw(path, {"a": {**F32, "data_offsets": [8, 16]}}, bytes(16)),
        "overlap or leave holes",
    ),
    "size of truth": (
        "a.safetensors",
        lambda path: write_raw(path, {"a": {**F32, "shape": [True, 2]}}),
        "no count",
    ),
    "size of 80 bits": (
        "a.safetensors",
        lambda path: write_raw(path, {"a": {**F32, "shape": [0, 2**80], "data_offsets": [0, 0]}}),
        "no count",
    ),
    "shape is no list": (
        "a.safetensors",
        lambda path: write_raw(path, {"a": {**F32, "shape": {"0": 2}}}),
        "shape of a is no list",
    ),
    "too many axes": (
        "a.safetensors",
        lambda path: write_raw(path, {"a": {**F32, "shape": [2, *[1] * 16]}}),
        "shape of a is no list",
    ),
    "ends before it begins": (
        "a.safetensors",
        lambda path: write_raw(path, {"a": {**F32, "data_offsets": [8, 0]}}),
        "does not fit its shape",
    ),
    "three offsets": (
        "a.safetensors",
        lambda path: write_raw(path, {"a": {**F32, "data_offsets": [0, 4, 8]}}),
        "entry of a is wrong",
    ),
    "beyond the end": (
        "a.safetensors",
        lambda path: write_raw(path, {"a": F32, "b": {**F32, "data_offsets": [8, 16]}}),
        "is truncated: it lists 16 bytes",
    ),
    "more than a tensor": (
        "a.safetensors",
        lambda path: write_raw(path, {"a": {**F32, "loader": "os.system"}}),
        "more in it than a tensor",
    ),
    "a table within": (
        "a.safetensors",
        lambda path: write_raw(path, {"a": {"b": F32}}),
        "entry of a is wrong",
    ),
    "duplicate within": (
        "a.safetensors",
        lambda path: write_raw(path, '{"a":{"dtype":"F32","dtype":"F16","shape":[2],"data_offsets":[0,8]}}'),
        "'dtype' is there twice",
    ),
    "infinite size": (
        "a.safetensors",
        lambda path: write_raw(path, '{"a":{"dtype":"F32","shape":[Infinity],"data_offsets":[0,8]}}'),
        "damaged header",
    ),
    "metadata are no texts": (
        "a.safetensors",
        lambda path: write_raw(path, {"__metadata__": {"a": {"b": 1}}, "a": F32}),
        "metadata are not a table of texts",
    ),
    "metadata are no table": (
        "a.safetensors",
        lambda path: write_raw(path, {"__metadata__": [1], "a": F32}),
        "metadata are not a table",
    ),
    "NaN": (
        "a.safetensors",
        lambda path: save_file(with_value(float("nan")), path),
        "bad has values that are not",
    ),
    "infinity in half": (
        "a.safetensors",
        lambda path: save_file(with_value(float("inf"), torch.float16), path),
        "bad has values that are not",
    ),
    "NaN in 8 bits": (
        "a.safetensors",
        lambda path: save_file(with_value(float("nan"), torch.float8_e4m3fn), path),
        "bad has values that are not",
    ),
    "NaN in a pickle": ("a.pth", lambda path: torch.save(with_value(float("nan")), path), "bad has values"),
    "truncated pickle": ("a.ckpt", lambda path: truncate(path, torch.save), "is damaged or no PyTorch file"),
    "truncated old pickle": (
        "a.ckpt",
        lambda path: truncate(path, save_legacy),
        "is damaged or no PyTorch file",
    ),
    "zip": (
        "a.pth",
        lambda path: path.write_bytes(b"PK\x03\x04" + bytes(99)),
        "is damaged or no PyTorch file",
    ),
    "hostile pickle": ("a.ckpt", lambda path: dump_hostile(path, torch.save), "could run as a program"),
    "hostile old pickle": ("a.pt", lambda path: dump_hostile(path, save_legacy), "could run as a program"),
    "hostile plain pickle": (
        "a.bin",
        lambda path: dump_hostile(path, plain_pickle),
        "is damaged or no|could run",
    ),
    "hostile new pickle": (
        "a.bin",
        lambda path: plain_pickle({"a": Hostile(path.parent / "it ran")}, path, 5),
        "could run as a program",
    ),
    "a module": ("a.pt", lambda path: torch.save(torch.nn.Linear(2, 2), path), "could run as a program"),
    "claims more than it holds": (
        "a.pth",
        lambda path: torch.save({"a": torch.zeros(1).expand(10**9)}, path),
        "a is larger than its data",
    ),
    "sparse": ("a.pth", lambda path: torch.save({"a": torch.ones(2).to_sparse()}, path), "sparse"),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("case", DAMAGED)
def test_a_bad_file_is_refused_with_its_name_and_the_reason(case: str, tmp_path: Path) -> None:
    name, write, reason = DAMAGED[case]
    write(tmp_path / name)
    with pytest.raises(ModelFileError, match=reason) as caught:
        read_tensors(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)
    assert not (tmp_path / "it ran").exists()


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("case", [case for case in DAMAGED if "hostile" in case])
def test_a_hostile_pickle_does_not_run_while_its_header_is_read(case: str, tmp_path: Path) -> None:
    name, write, _ = DAMAGED[case]
    write(tmp_path / name)
    with pytest.raises(ModelFileError):
        read_header(tmp_path / name)
    assert not (tmp_path / "it ran").exists()


def test_the_hostile_pickle_of_these_tests_is_hostile(tmp_path: Path) -> None:
    dump_hostile(tmp_path / "a.ckpt", torch.save)
    torch.load(tmp_path / "a.ckpt", weights_only=False)
    assert (tmp_path / "it ran").exists()


def test_finite_values_of_every_size_are_accepted(tmp_path: Path) -> None:
    kinds = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn)
    limits = [torch.finfo(kind) for kind in kinds]
    largest = {
        limit.dtype: torch.tensor([limit.max, limit.min], dtype=getattr(torch, limit.dtype))
        for limit in limits
    }
    save_file(largest, tmp_path / "a.safetensors")
    assert read_tensors(tmp_path / "a.safetensors").keys() == largest.keys()


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "case",
    [
        c
        for c in DAMAGED
        if DAMAGED[c][0] == "a.safetensors" and not c.startswith(("NaN", "infinity in", "too many t", "huge"))
    ],
)
def test_a_download_is_refused_by_its_header_whatever_its_name(case: str, tmp_path: Path) -> None:
    _, write, _ = DAMAGED[case]
    path = tmp_path / "a.safetensors"
    write(path)
    if path.exists():
        path = path.rename(tmp_path / "a.safetensors.part")
    with pytest.raises(ModelFileError):
        check_safetensors(path)
    save_file(TENSORS, tmp_path / "whole.part")
    check_safetensors(tmp_path / "whole.part")
