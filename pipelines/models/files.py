"""Reading model files that may be damaged, mislabelled or hostile.

Nothing is ever executed: safetensors are checked against their own header before a tensor is touched, and
pickles go through torch's weights-only unpickler with a short list of harmless additions. What a file is
follows from its first bytes; only the name `.safetensors` is a promise that it is no pickle.
"""

from __future__ import annotations

import _codecs
import json
import math
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ..errors import ModelFileError

MAX_HEADER_BYTES = 32 * 2**20
"""Largest safetensors header read; SDXL's is 0.3 MB."""
MAX_TENSORS = 100_000
"""Most tensors in one file; SDXL has 2 515."""

MAX_AXES = 16
"""Most axes of a tensor; those of networks have up to 5."""

Header = dict[str, tuple[torch.dtype, torch.Size]]

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def read_tensors(path: Path, prefix: str = "") -> dict[str, Tensor]:
    """The tensors of a file, or those whose names begin with `prefix`, which is then left off.

    On the CPU, in the file's own floating point types, independent of the file afterwards. A pickle's outer
    `state_dict` is unwrapped, tables inside are joined to dotted names, and what is no tensor is left out.
    Raises ModelFileError naming file and reason: missing, truncated, unsafe, not a model, values not finite.
    """
    if _is_pickle(path):
        tensors = {key: _own(path, key, value) for key, value in _unpickle(path) if key.startswith(prefix)}
    else:
        header, _ = _parse_header(path)
        try:
            # Copied: what it hands out is the mapped file itself, and replacing that would change a model.
            with safe_open(path, framework="pt") as file:
                tensors = {key: file.get_tensor(key).clone() for key in header if key.startswith(prefix)}
        except (SafetensorError, OSError) as error:
            raise ModelFileError(path, f"cannot be read: {error}") from error
    for key, tensor in tensors.items():
        if not _is_finite(tensor):
            raise ModelFileError(path, f"is damaged: {key} has values that are not finite")
    return {key.removeprefix(prefix): tensor for key, tensor in tensors.items()}


def read_header(path: Path) -> Header:
    """Names, types and shapes of all tensors, without reading their values. Raises as `read_tensors`."""
    if _is_pickle(path):
        return {key: (tensor.dtype, tensor.shape) for key, tensor in _unpickle(path, device="meta")}
    return _parse_header(path)[0]


def read_metadata(path: Path) -> dict[str, str]:
    """The free-form notes of a safetensors file; none for a pickle. Raises as `read_tensors`."""
    return {} if _is_pickle(path) else _parse_header(path)[1]


def check_safetensors(path: Path) -> None:
    """Check that a file, whatever its name, is a whole safetensors file, by its header alone.

    Raises ModelFileError. That all values are finite is checked where they are read.
    """
    if _is_pickle(path):
        raise ModelFileError(path, "is a pickle or zip archive, not a safetensors file, so it is not trusted")
    _parse_header(path)


def _is_pickle(path: Path) -> bool:
    """Tell the two formats apart by content; raises ModelFileError for anything else."""
    try:
        with path.open("rb") as file:
            start = file.read(512)
    except OSError as error:
        raise ModelFileError(path, f"cannot be opened: {error.strerror}") from error
    if not start:
        raise ModelFileError(path, "is empty; download it again")
    if start.lstrip()[:5].lower() in (b"<!doc", b"<html", b"<?xml"):
        raise ModelFileError(path, "is a web page, not a model; the link is wrong or needs a login")
    if start.startswith(b"version https://git-lfs"):
        raise ModelFileError(path, "is a Git LFS pointer, not a model; download the file itself")
    # A safetensors file begins with its header's length, whose lowest byte may be a pickle's first.
    if start.startswith(b"PK\x03\x04") or (start[:1] == b"\x80" and start[8:9] != b"{"):
        if path.suffix.lower() == ".safetensors":
            raise ModelFileError(
                path, "is a pickle or zip archive under the name of a safetensors file, so it is not trusted"
            )
        return True
    if start[8:9] == b"{":
        return False
    raise ModelFileError(path, "is neither a safetensors file nor a PyTorch file")


def _parse_header(path: Path) -> tuple[Header, dict[str, str]]:
    """Check a safetensors header against the file. Format: github.com/huggingface/safetensors#format."""
    entries, available = _load_json(path)
    metadata = entries.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ModelFileError(path, "is damaged: its metadata are not a table of texts")
    if len(entries) > MAX_TENSORS:
        raise ModelFileError(path, f"lists {len(entries)} tensors, more than the {MAX_TENSORS} allowed")
    header: Header = {}
    spans = []
    for key, entry in entries.items():
        try:
            dtype, shape, (begin, end) = _DTYPES[entry["dtype"]], entry["shape"], entry["data_offsets"]
        except (KeyError, TypeError, ValueError) as error:
            raise ModelFileError(path, f"is damaged: the entry of {key} is wrong ({error!r})") from error
        if set(entry) != {"dtype", "shape", "data_offsets"}:
            raise ModelFileError(path, f"is damaged: the entry of {key} has more in it than a tensor needs")
        if type(shape) is not list or len(shape) > MAX_AXES:
            raise ModelFileError(path, f"is damaged: the shape of {key} is no list of up to {MAX_AXES} sizes")
        if not all(type(number) is int and 0 <= number < 2**63 for number in (*shape, begin, end)):
            raise ModelFileError(path, f"is damaged: the entry of {key} has a number that is no count")
        if end - begin != math.prod(shape) * dtype.itemsize:
            raise ModelFileError(path, f"is damaged: {key} has a size that does not fit its shape {shape}")
        header[key] = (dtype, torch.Size(shape))
        spans.append((begin, end))
    position = 0
    for begin, end in sorted(spans):
        if begin != position:
            raise ModelFileError(path, "is damaged: its tensors overlap or leave holes")
        position = end
    if position != available:
        kind = "truncated" if position > available else "damaged"
        raise ModelFileError(path, f"is {kind}: it lists {position} bytes of tensors and holds {available}")
    return header, {str(key): str(value) for key, value in metadata.items()}


def _load_json(path: Path) -> tuple[dict[str, Any], int]:
    """The table at the start of the file, and how many bytes follow it."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > min(MAX_HEADER_BYTES, size - 8):
            raise ModelFileError(
                path,
                f"claims a header of {length} bytes in a file of {size} ({MAX_HEADER_BYTES} are allowed); "
                "it is truncated or no safetensors file",
            )
        try:
            table = json.loads(
                file.read(length), object_pairs_hook=_without_duplicates, parse_constant=_refuse_constant
            )
        except (ValueError, RecursionError) as error:
            raise ModelFileError(path, f"has a damaged header: {error}") from error
    return table, size - 8 - length


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} is there twice")
    return table


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON")  # though Python reads NaN and Infinity


class _Inert:
    """Stands for classes of a training program, which old checkpoints mention beside their weights."""

    def __setstate__(self, state: object) -> None:
        pass


_numpy_scalar = np.float64(0).__reduce__()[0]  # its module has moved between versions of numpy
_HARMLESS: list[Any] = [
    nn.ParameterDict,  # textual inversions of old A1111
    np.dtype,
    *{type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i4", "i8", "u1", "?")},
    (_numpy_scalar, "numpy.core.multiarray.scalar"),
    (_numpy_scalar, "numpy._core.multiarray.scalar"),
    (_codecs.encode, "_codecs.encode"),  # how a numpy scalar's bytes are spelled
    (_Inert, "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint"),  # sd-v1-4.ckpt
    (_Inert, "pytorch_lightning.callbacks.early_stopping.EarlyStopping"),
]


def _unpickle(path: Path, device: str = "cpu") -> list[tuple[str, Tensor]]:
    with path.open("rb") as file:
        is_zip = file.read(2) == b"PK"
    # Only the zip form can be mapped; the older one is read whole.
    mapped = is_zip and device == "cpu"
    try:
        with torch.serialization.safe_globals(_HARMLESS):
            content = torch.load(path, map_location=device, weights_only=True, mmap=mapped)
    except Exception as error:  # a broken pickle fails in every way there is
        raise ModelFileError(path, _why_not_unpickled(error)) from error
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    tensors = _flatten(content) if isinstance(content, Mapping) else []
    if len(tensors) > MAX_TENSORS:
        raise ModelFileError(path, f"holds {len(tensors)} tensors, more than the {MAX_TENSORS} allowed")
    return tensors


def _why_not_unpickled(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    refused = next((line for line in lines if "unsupported" in line.lower()), None)
    if isinstance(error, pickle.UnpicklingError) and refused:
        return f"holds more than weights, which could run as a program; it was not loaded ({refused[:200]})"
    return f"is damaged or no PyTorch file ({lines[0][:200]})"


def _flatten(table: Any, prefix: str = "") -> list[tuple[str, Tensor]]:
    tensors: list[tuple[str, Tensor]] = []
    for key, value in table.items():
        if isinstance(value, Tensor):
            tensors.append((f"{prefix}{key}", value))
        elif isinstance(value, Mapping | nn.ParameterDict):
            tensors += _flatten(value, f"{prefix}{key}.")
    return tensors


def _own(path: Path, key: str, tensor: Tensor) -> Tensor:
    """A copy in memory of its own. A pickle can claim a huge tensor over a small storage: refused."""
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
        raise ModelFileError(path, f"is not usable: {key} is a sparse, quantized or empty shell of a tensor")
    if tensor.nbytes > tensor.untyped_storage().nbytes():
        raise ModelFileError(path, f"is damaged: {key} is larger than its data")
    return tensor.detach().clone(memory_format=torch.contiguous_format)


def _is_finite(tensor: Tensor) -> bool:
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return True
    # aminmax is 20 times as fast as isfinite and lets NaN through; it has no form for 8-bit floats.
    low, high = torch.aminmax(tensor.float() if tensor.dtype.itemsize == 1 else tensor)
    return math.isfinite(low) and math.isfinite(high)
