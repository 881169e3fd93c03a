"""The words that the diffusion starter understands, computed from the picture, and a tokenizer for them.

Every other word is spelt in bytes and mixed into the training prompts at random, so it means nothing.
"""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import CLIPTokenizer

from .degradation import jpeg, shrink

QUALITY = ("high quality", "high resolution")
SHARP, DETAILED, SMOOTH = ("sharp",), ("detailed", "highly detailed"), ("smooth",)
BLURRY, NOISY = ("blurry",), ("noisy", "noisey", "grainy")
ENLARGED, PIXELATED = ("low resolution", "interpolated"), ("pixelated", "low resolution")
COMPRESSED = ("compressed", "compression artifacts")
POOR = ("low quality", "bad", "ugly")
COLORS = {
    "red": (0.75, 0.2, 0.2), "orange": (0.9, 0.55, 0.2), "yellow": (0.85, 0.8, 0.25),
    "green": (0.3, 0.55, 0.25), "cyan": (0.35, 0.75, 0.8), "blue": (0.3, 0.45, 0.75),
    "purple": (0.5, 0.3, 0.6), "brown": (0.4, 0.28, 0.18), "black": (0.08, 0.08, 0.08),
    "gray": (0.5, 0.5, 0.5), "white": (0.92, 0.92, 0.92),
}  # fmt: skip
DETAIL_LEVELS = (0.045, 0.09)
"""Mean absolute fine gradient (0..1) below which a crop is smooth and above which it is detailed:
thirds of the pool."""
DEGRADED_SHARE = 0.15
"""Training targets that are made worse and named so, for the negative prompt to lead away from."""
DROPPED_PROMPTS = 0.1
PROMPT_LENGTH = 77
"""Tokens, as in CLIP."""


def vocabulary() -> list[str]:
    """Every word with a token of its own."""
    groups = (QUALITY, SHARP, DETAILED, SMOOTH, BLURRY, NOISY, ENLARGED, PIXELATED, COMPRESSED, POOR)
    words = {word for group in groups for tag in group for word in tag.split()}
    return sorted({*words, *COLORS, ","})


def make_tokenizer() -> CLIPTokenizer:
    """A byte-pair tokenizer in CLIP's format whose merges build the words of `vocabulary` alone."""
    with TemporaryDirectory() as folder:
        _write_vocabulary(Path(folder))
        return CLIPTokenizer.from_pretrained(folder, local_files_only=True, model_max_length=PROMPT_LENGTH)


def save_tokenizer(folder: Path) -> None:
    """In transformers 5's files and in those of transformers 4, so that either reads the folder."""
    make_tokenizer().save_pretrained(folder)
    _write_vocabulary(folder)


def _write_vocabulary(folder: Path) -> None:
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(byte) for byte in printable] + [chr(256 + n) for n in range(256 - len(printable))]
    tokens = [*letters, *(letter + "</w>" for letter in letters)]
    merges: dict[tuple[str, str], int] = {}
    for word in vocabulary():
        pieces = _apply([*word[:-1], word[-1] + "</w>"], merges)
        while len(pieces) > 1:
            merges[pieces[0], pieces[1]] = len(merges)
            tokens.append(pieces[0] + pieces[1])
            pieces = [pieces[0] + pieces[1], *pieces[2:]]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    table = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    (folder / "vocab.json").write_text(json.dumps(table), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _apply(pieces: list[str], merges: dict[tuple[str, str], int]) -> list[str]:
    while len(pieces) > 1:
        pairs = list(pairwise(pieces))
        best = min(range(len(pairs)), key=lambda n: merges.get(pairs[n], len(merges)))
        if pairs[best] not in merges:
            break
        pieces = [*pieces[:best], "".join(pairs[best]), *pieces[best + 2 :]]
    return pieces


def describe(image: Tensor) -> list[list[str]]:
    """Tags of good pictures `[B,3,H,W]`: how detailed, and the one or two colours that cover most of each."""
    grey = image.mean(1, keepdim=True)
    fine = (grey - F.avg_pool2d(grey, 3, 1, 1)).abs().mean((1, 2, 3)) * 4
    small = F.interpolate(image, (16, 16), mode="area").flatten(2).transpose(1, 2)
    palette = torch.tensor(list(COLORS.values()), device=image.device)
    nearest = torch.cdist(small, palette.expand(len(image), -1, -1)).argmin(2)
    counts = F.one_hot(nearest, len(COLORS)).float().mean(1)
    tags = []
    for amount, shares in zip(fine.tolist(), counts.tolist(), strict=True):
        words = list(QUALITY)
        if amount > DETAIL_LEVELS[1]:
            words += [*SHARP, *DETAILED]
        elif amount > DETAIL_LEVELS[0]:
            words += SHARP
        else:
            words += SMOOTH
        tags.append(words + [name for name, share in zip(COLORS, shares, strict=True) if share > 0.3])
    return tags


def spoil(image: Tensor, generator: torch.Generator) -> tuple[Tensor, list[str]]:
    """One picture `[3,H,W]` made worse in one way, and the tags for that."""
    picture, size = image[None], image.shape[1:]
    strength = float(torch.rand((), generator=generator))
    kind = int(torch.randint(5, (), generator=generator))
    if kind == 0:
        sigma = 1 + 2 * strength
        taps = torch.exp(-0.5 * (torch.arange(-8, 9, device=image.device) / sigma) ** 2)
        taps = (taps / taps.sum()).expand(3, 1, 1, -1)
        padded = F.pad(picture, (8, 8, 8, 8), mode="reflect")
        worse = F.conv2d(F.conv2d(padded, taps, groups=3), taps.transpose(2, 3), groups=3)
        tags = BLURRY
    elif kind == 1:
        worse = F.interpolate(shrink(picture, 2 + 2 * strength), size, mode="bicubic")
        tags = ENLARGED
    elif kind == 2:
        worse = F.interpolate(shrink(picture, 2 + 2 * strength, "area"), size, mode="nearest")
        tags = PIXELATED
    elif kind == 3:
        worse = picture + (0.03 + 0.07 * strength) * torch.randn(picture.shape, generator=generator).to(
            image.device
        )
        tags = NOISY
    else:
        worse = jpeg(picture, torch.tensor([8 + 22 * strength], device=image.device))
        tags = COMPRESSED
    return worse[0].clamp(0, 1), [*tags, *POOR]


def write_prompt(tags: list[str], generator: torch.Generator) -> str:
    """Some of the tags in random order, at times with a meaningless word; empty for `DROPPED_PROMPTS`."""
    if torch.rand((), generator=generator) < DROPPED_PROMPTS:
        return ""
    kept = [tag for tag in dict.fromkeys(tags) if torch.rand((), generator=generator) < 0.7]
    if torch.rand((), generator=generator) < 0.4:
        length = int(torch.randint(2, 9, (), generator=generator))
        kept.append("".join(chr(97 + int(n)) for n in torch.randint(26, (length,), generator=generator)))
    return ", ".join(kept[int(n)] for n in torch.randperm(len(kept), generator=generator))
