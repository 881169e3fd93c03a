"""How many tiles of a canvas to evaluate at once."""

from __future__ import annotations

from typing import Any

from .runtime import Memory

ACTIVATION_FEATURES = 60
"""Feature maps of the first block's width that a network holds at once for one sample; an upper estimate."""

MOST_TILES = 8
"""Tiles in a batch at most when it follows from free memory; more gains little on any device."""

CPU_BATCH_BYTES = 2**29
"""Activations of a batch of tiles on a CPU, which gains nothing from more than keeps its cores busy."""


def bytes_per_tile(unet: Any, height: int, width: int, *, samples: int = 1) -> int:
    """Of activations, for a tile of `height` x `width` latents; `samples` is 2 under guidance."""
    size = next(unet.parameters()).element_size()
    return tile_bytes(unet.config.block_out_channels[0], size, height, width, samples=samples)


def tile_bytes(width: int, itemsize: int, height: int, length: int, *, samples: int = 1) -> int:
    """`bytes_per_tile` of a UNet whose first block has `width` channels, in numbers of `itemsize` bytes.

    The tile has `height` x `length` latents.
    """
    return samples * height * length * width * itemsize * ACTIVATION_FEATURES


def fitting_batch(tile_bytes: int, memory: Memory) -> int:
    """Tiles of so many bytes that fit into what is free now; at least one."""
    # Half of what is free: the estimate is rough, and the networks may not be resident yet.
    room = CPU_BATCH_BYTES if memory.device.type == "cpu" else memory.free_bytes() // 2
    return int(min(max(room // tile_bytes, 1), MOST_TILES))
