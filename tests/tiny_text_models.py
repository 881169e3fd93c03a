"""The text half of a tiny model: random CLIP encoders with the real vocabulary, and textual inversions."""

from __future__ import annotations

import gzip
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import open_clip
import torch
from torch import Tensor
from transformers import CLIPTokenizer

from tiny_checkpoints import CLIP_G_WIDTH, CLIP_L_WIDTH, Family, make_text_encoders, seeded

# How many vectors each textual inversion has.
EMBEDDINGS = {"wobble": 3, "bad-hands-5": 2, "bad-hands": 1, "mob-of-12": 12, "scroll": 90}


def make_text_models(family: Family) -> SimpleNamespace:
    """What `encode_prompts` needs of a `CreativeModels`."""
    with seeded(0):
        encoders = make_text_encoders(family)
    layer = "last" if family == "sd15" else "penultimate"
    return SimpleNamespace(
        text_encoders=tuple(
            SimpleNamespace(tokenizer=make_tokenizer(pad), module=encoder, layer=layer)
            for encoder, pad in zip(encoders, ("<|endoftext|>", "!"), strict=False)
        ),
        embeddings={
            name: SimpleNamespace(token=name, vectors=vectors)
            for name, vectors in make_embeddings(family).items()
        },
    )


def make_embeddings(family: Family) -> dict[str, dict[str, Tensor]]:
    """Vectors by encoder for each name, as large as those of words."""
    widths = {"clip_l": CLIP_L_WIDTH} | ({"clip_g": CLIP_G_WIDTH} if family == "sdxl" else {})
    generator = torch.Generator().manual_seed(1)
    return {
        name: {key: torch.randn(count, width, generator=generator) / 2 for key, width in widths.items()}
        for name, count in EMBEDDINGS.items()
    }


def make_tokenizer(pad: str) -> CLIPTokenizer:
    vocabulary, merges = _vocabulary()
    return CLIPTokenizer(vocab=vocabulary, merges=merges, pad_token=pad, model_max_length=77)


@cache
def _vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """OpenAI's file, as open_clip reads it."""
    tokenizer = open_clip.tokenizer.SimpleTokenizer()
    path = Path(open_clip.__file__).with_name("bpe_simple_vocab_16e6.txt.gz")
    with gzip.open(path, "rt", encoding="utf-8") as file:
        merges = [tuple(line.split()) for line in file.read().split("\n")[1 : 49152 - 256 - 2 + 1]]
    vocabulary = {
        word.replace("<start_of_text>", "<|startoftext|>").replace("<end_of_text>", "<|endoftext|>"): number
        for word, number in tokenizer.encoder.items()
    }
    return vocabulary, merges
