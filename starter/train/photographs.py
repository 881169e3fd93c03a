"""The training pool: a folder of photographs, decoded once, and random crops of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
HELD_OUT = 40
"""One picture in so many is kept from training, to watch the error on."""


class Photographs:
    """All pictures of a folder as 8-bit RGB in one array, which `cache` keeps on disk.

    The pool lies on `device` where that is a GPU, so that crops cost no transfer; on the CPU it stays mapped
    from disk. Raises ValueError for a folder without pictures as large as `smallest` on both sides.
    """

    def __init__(self, folder: Path, cache: Path, device: torch.device, *, smallest: int = 256) -> None:
        index = cache / "photographs.json"
        if not index.exists():
            _decode(folder, cache)
        sizes = json.loads(index.read_text())
        pixels: np.ndarray | Tensor = np.load(cache / "photographs.npy", mmap_mode="r")
        if device.type != "cpu":
            pixels = torch.from_numpy(np.asarray(pixels)).to(device)
        self.device = device
        pictures, first = [], 0
        for height, width in sizes:
            picture = pixels[first : first + height * width * 3].reshape(height, width, 3)
            first += height * width * 3
            if min(height, width) >= smallest:
                pictures.append(picture)
        if not pictures:
            raise ValueError(f"{folder} has no picture of at least {smallest} pixels on both sides; add some")
        self.held_out = pictures[::HELD_OUT]
        self.pictures = [picture for n, picture in enumerate(pictures) if n % HELD_OUT] or pictures
        areas = torch.tensor([float(p.shape[0] * p.shape[1]) for p in self.pictures])
        # Large landscapes would otherwise be seen as often as small ones, pixel for pixel far less.
        self.weights = areas.sqrt()

    def crops(self, count: int, size: int, generator: torch.Generator, *, per_picture: int = 4) -> Tensor:
        """`[count,3,size,size]` in 0..1 on the device: flipped and turned, the livelier of two half the time.

        Much of a photograph is out of focus, and flat crops teach little.
        """
        crops = []
        while len(crops) < count:
            picture = self.pictures[int(torch.multinomial(self.weights, 1, generator=generator))]
            for _ in range(min(per_picture, count - len(crops))):
                first, second = (_crop(picture, size, generator) for _ in range(2))
                lively = torch.rand((), generator=generator) < 0.5
                chosen = max(first, second, key=_liveliness) if lively else first
                turn, mirror = torch.randint(4, (), generator=generator), torch.rand((), generator=generator)
                chosen = torch.rot90(chosen, int(turn))
                crops.append(chosen.flip(0) if mirror < 0.5 else chosen)
        return torch.stack(crops).permute(0, 3, 1, 2).to(self.device).float() / 255


def _crop(picture: np.ndarray | Tensor, size: int, generator: torch.Generator) -> Tensor:
    height, width = picture.shape[:2]
    top = int(torch.randint(height - size + 1, (), generator=generator))
    left = int(torch.randint(width - size + 1, (), generator=generator))
    crop = picture[top : top + size, left : left + size]
    return crop if isinstance(crop, Tensor) else torch.from_numpy(np.array(crop))


def _liveliness(crop: Tensor) -> float:
    green = crop[::2, ::2, 1].float()
    return float((green[1:] - green[:-1]).abs().mean())


def _decode(folder: Path, cache: Path) -> None:
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise ValueError(f"{folder} has no pictures ({', '.join(sorted(SUFFIXES))})")
    cache.mkdir(parents=True, exist_ok=True)
    sizes, total = [], 0
    with open(cache / "photographs.raw", "wb") as raw:
        for path in paths:
            with Image.open(path) as picture:
                pixels = np.asarray(picture.convert("RGB"))
            raw.write(pixels.tobytes())
            sizes.append(pixels.shape[:2])
            total += pixels.size
    array = np.memmap(cache / "photographs.raw", dtype=np.uint8, mode="r", shape=(total,))
    np.save(cache / "photographs.npy", array)
    (cache / "photographs.raw").unlink()
    (cache / "photographs.json").write_text(json.dumps(sizes))
