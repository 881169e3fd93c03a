"""The text half of a tiny model: random CLIP encoders with the real vocabulary, and textual inversions."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import Tensor

from creative_upscaler.pipelines.models.embeddings import TextualInversion
from creative_upscaler.pipelines.models.tokenizer import make_tokenizer
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
        embeddings={name: TextualInversion(name, vectors) for name, vectors in make_vectors(family).items()},
    )


def make_vectors(family: Family) -> dict[str, dict[str, Tensor]]:
    """Vectors by encoder for each name, as large as those of words."""
    widths = {"clip_l": CLIP_L_WIDTH} | ({"clip_g": CLIP_G_WIDTH} if family == "sdxl" else {})
    generator = torch.Generator().manual_seed(1)
    return {
        name: {key: torch.randn(count, width, generator=generator) / 2 for key, width in widths.items()}
        for name, count in EMBEDDINGS.items()
    }
