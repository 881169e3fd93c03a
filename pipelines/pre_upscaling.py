"""Enlarging with a super-resolution network (any single-image model spandrel knows) before the redraw."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from spandrel import (
    ImageModelDescriptor,
    ModelLoader,
    UnsupportedModelError,
    canonicalize_state_dict,
)
from torch import Tensor

from .errors import MemoryLimitError, ModelFileError, UpscalerError
from .models.files import read_tensors
from .resizing import Size, lanczos_kernels, resize
from .runtime import Runtime

TILE = 512
"""Source pixels per side that a network sees at once; ComfyUI's own upscale node has the same."""
SMALLEST_TILE = 128
HALO = 36
"""Source pixels around a tile: 32 of context, as in ComfyUI, and 4 for the exact resize."""

FEATURES = 3 * 64
"""Feature maps of the result's size held at once by most such networks: an upper estimate, for `Memory`."""

# Published files wrap the weights in these tables; "" is none. The last two are also names of layers.
WRAPPERS = ("params_ema.", "params-ema.", "params.", "model_state_dict.", "", "model.", "net.")


def load_upscaler(path: Path) -> ImageModelDescriptor:
    """Load a super-resolution or restoration network from a file, on the CPU in float32.

    The architecture is recognised by what is in the file. Nothing in it is executed.
    Raises `ModelFileError` for a file that is damaged, unsafe, unknown to spandrel or not from RGB to RGB.
    """
    tensors = read_tensors(path)
    for wrapper in WRAPPERS:
        weights = {key[len(wrapper) :]: value for key, value in tensors.items() if key.startswith(wrapper)}
        if not weights:
            continue
        try:
            model = ModelLoader().load_from_state_dict(canonicalize_state_dict(weights))
        except UnsupportedModelError:
            continue
        except Exception as error:  # an architecture fails in its own way on weights that only resemble it
            raise ModelFileError(path, f"cannot be loaded as an upscale model: {error}") from error
        if not isinstance(model, ImageModelDescriptor):
            raise ModelFileError(path, f"is an {model.purpose} model; a single-image upscale model is needed")
        if (model.input_channels, model.output_channels) != (3, 3):
            raise ModelFileError(path, _wrong_channels(model))
        for parameter in model.model.parameters():
            parameter.requires_grad_(False)
        return model.float().eval()
    raise ModelFileError(path, "is no upscale model that spandrel knows")


def pre_upscale(image: Tensor, size: Size, upscaler: ImageModelDescriptor | None, runtime: Runtime) -> Tensor:
    """Enlarge `[B,3,H,W]` in 0..1 to exactly `size`: a new float32 tensor in 0..1 on the CPU.

    With an `upscaler` (what `load_upscaler` returns, also ComfyUI's UPSCALE_MODEL) this is the Lanczos resize
    of its result, made tile by tile so that the result of the network never exists as a whole. It is left
    out where nothing is enlarged, unless it restores at the same size. Without one this is `resize`.

    Raises `UpscalerError` for a model that is not from RGB to RGB, and `MemoryLimitError` when it does not
    fit into memory with the smallest tile.
    """
    grows = size[0] > image.shape[2] or size[1] > image.shape[3]
    if upscaler is None or not (grows or upscaler.scale == 1):
        return resize(image, size)
    if (upscaler.input_channels, upscaler.output_channels) != (3, 3):
        raise UpscalerError(_wrong_channels(upscaler))
    tile = TILE
    while True:
        try:
            return _upscale_in_tiles(image, size, upscaler, runtime, tile)
        except Exception as error:
            if not runtime.memory.is_out_of_memory(error):
                raise
            if tile == SMALLEST_TILE:
                raise MemoryLimitError(
                    f"the upscale model does not fit into memory with a tile of {tile} px; "
                    "free memory or use a smaller model"
                ) from error
        # Outside of the handler, so that what the failed attempt held is gone.
        runtime.memory.release()
        tile //= 2


@dataclass(frozen=True)
class _Span:
    """One tile along one axis."""

    target: slice
    """What it contributes to the result."""
    source: slice
    """What the network sees, in pixels of the source."""
    taps: slice
    """What of the network's result is used."""
    weights: Tensor
    """Lanczos weights `[target, taps]`."""


def _upscale_in_tiles(
    image: Tensor, size: Size, upscaler: ImageModelDescriptor, runtime: Runtime, tile: int
) -> Tensor:
    device, dtype = runtime.memory.device, upscaler.dtype
    result = torch.empty(len(image), 3, *size)
    rows = list(_spans(image.shape[2], size[0], upscaler.scale, tile))
    columns = list(_spans(image.shape[3], size[1], upscaler.scale, tile))
    total = len(image) * len(rows) * len(columns)
    done = 0
    seen = (rows[0].source.stop - rows[0].source.start) * (columns[0].source.stop - columns[0].source.start)
    activation_bytes = seen * upscaler.scale**2 * FEATURES * dtype.itemsize
    # One tile of one picture at a time: a spandrel model promises no more, and a tile keeps a device busy.
    for picture, enlarged in zip(image, result, strict=True):
        for row in rows:
            for column in columns:
                runtime.progress("pre-upscale", done, total)
                runtime.memory.load(upscaler.model, activation_bytes=activation_bytes)
                seen_part = picture[None, :, row.source, column.source].to(device, dtype)
                part = upscaler(seen_part)[0, :, row.taps, column.taps].float()
                part = row.weights.to(device) @ part @ column.weights.to(device).T
                enlarged[:, row.target, column.target] = part.clamp_(0, 1).cpu()
                done += 1
    runtime.progress("pre-upscale", total, total)
    return result


def _spans(length: int, target: int, scale: int, tile: int) -> Iterator[_Span]:
    """Tiles of one size, and at most about `tile`, whose results join without a seam."""
    count = 1 if length <= tile else -(-length // (tile - 2 * HALO))
    kernels = lanczos_kernels(length * scale, target, -(-target // count), torch.device("cpu"))
    wanted = [(taps.start // scale - HALO, -(-taps.stop // scale) + HALO) for _, taps, _ in kernels]
    width = min(length, max(stop - start for start, stop in wanted))
    for (block, taps, weights), (start, _) in zip(kernels, wanted, strict=True):
        start = min(max(start, 0), length - width)
        local = slice(taps.start - start * scale, taps.stop - start * scale)
        yield _Span(block, slice(start, start + width), local, weights)


def _wrong_channels(model: ImageModelDescriptor) -> str:
    return (
        f"takes {model.input_channels} and gives {model.output_channels} channels; "
        "an upscale model from 3 (RGB) to 3 is needed"
    )
