"""Prompts of any length to what conditions the denoising network.

Chunks of 75 tokens and the weighting are ComfyUI's: each chunk is encoded as a prompt of its own between BOS
and EOS, the chunks are joined along the tokens, and a token's state `z` of weight `w` becomes
`e + w * (z - e)`, where `e` is the state at the same place in an empty prompt.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from .prompt_notation import Piece, read_prompt
from .runtime import Runtime

if TYPE_CHECKING:
    from .models import CreativeModels, TextEncoder
    from .models.embeddings import TextualInversion

# The names textual inversion files have for the encoders of SD1.5 (the first) and SDXL (both).
ENCODER_KEYS = ("clip_l", "clip_g")
# ComfyUI moves a shorter run of text as a whole into the next chunk and cuts a longer one.
SHORTEST_CUT_TEXT = 8


@dataclass(frozen=True)
class TextConditioning:
    """What one prompt says to the denoising network; float32 on the CPU."""

    hidden: Tensor
    """`[1, 77*k, D]`: k chunks; with two text encoders their widths are joined in D."""
    pooled: Tensor | None
    """`[1, P]`: the first chunk's summary by the second text encoder (SDXL)."""


def encode_prompts(
    models: CreativeModels, prompts: Sequence[str], runtime: Runtime
) -> list[TextConditioning]:
    """Encode prompts in ComfyUI's notation, none of them cut.

    All results have the same length, so that they can be batched: shorter ones are repeated, which changes
    nothing in the attention to them, so no prompt depends on the others. Each distinct prompt is encoded
    once.

    Raises `ParameterError` for an `embedding:name` that is not loaded.
    """
    encoders = [
        _Encoder(encoder, key, models.embeddings, runtime)
        for key, encoder in zip(ENCODER_KEYS, models.text_encoders, strict=False)
    ]
    distinct = list(dict.fromkeys(prompts))
    pieces = [read_prompt(prompt, models.embeddings) for prompt in distinct]
    chunked = [[encoder.split(prompt) for prompt in pieces] for encoder in encoders]
    # Chunks of each prompt; an encoder that needs fewer than the other is given empty ones.
    counts = [max(len(chunks) for chunks in encodings) for encodings in zip(*chunked, strict=True)]
    length = math.lcm(*counts)

    hidden: list[list[Tensor]] = [[] for _ in distinct]
    pooled: list[Tensor | None] = [None] * len(distinct)
    total = len(encoders) * len(distinct)
    for number, (encoder, per_prompt) in enumerate(zip(encoders, chunked, strict=True)):
        done = number * len(distinct)
        empty, _ = encoder.encode(encoder.lay_out([[]]))
        runtime.progress("encode prompt", done, total)
        for index, chunks in enumerate(per_prompt):
            layout = encoder.lay_out(chunks)
            states, pooled[index] = encoder.encode(layout)
            # lerp is exact where the weight is 1.
            weighted = torch.lerp(empty, states, layout.weights)
            padded = torch.cat([weighted, empty.expand(counts[index] - len(chunks), -1, -1)])
            repeated = padded.repeat(length // counts[index], 1, 1)
            hidden[index].append(repeated.flatten(0, 1).unsqueeze(0))
            runtime.progress("encode prompt", done + index + 1, total)

    conditionings = {
        prompt: TextConditioning(torch.cat(parts, dim=-1), summary)
        for prompt, parts, summary in zip(distinct, hidden, pooled, strict=True)
    }
    return [conditionings[prompt] for prompt in prompts]


@dataclass(frozen=True)
class _Token:
    id: int
    weight: float
    vector: Tensor | None = None
    """Stands in for the row `id` of the embedding table, `[width]`."""


@dataclass(frozen=True)
class _Layout:
    """Chunks as the network takes them: n chunks of 77 tokens."""

    ids: Tensor
    """`[n, 77]` int64"""
    weights: Tensor
    """`[n, 77, 1]` float32, 1 for BOS, EOS and padding"""
    vectors: dict[tuple[int, int], Tensor]
    """Textual inversion vectors by chunk and place."""


class _Encoder:
    """One text encoder with its vocabulary and its textual inversions."""

    def __init__(
        self, encoder: TextEncoder, key: str, embeddings: Mapping[str, TextualInversion], runtime: Runtime
    ) -> None:
        self.tokenizer = encoder.tokenizer
        self.module = encoder.module
        self.layer = encoder.layer
        self.key = key
        self.embeddings = embeddings
        self.memory = runtime.memory
        self.content_length = self.tokenizer.model_max_length - 2

    def split(self, pieces: list[Piece]) -> list[list[_Token]]:
        """Distribute a prompt over chunks of at most 75 tokens; always at least one chunk."""
        chunks: list[list[_Token]] = [[]]
        for piece in pieces:
            tokens = self._embedding(piece) if piece.is_embedding else self._text(piece)
            # The vectors of a textual inversion mean something only together.
            longest_whole = self.content_length if piece.is_embedding else SHORTEST_CUT_TEXT - 1
            may_be_cut = len(tokens) > longest_whole
            while len(tokens) > (room := self.content_length - len(chunks[-1])):
                if may_be_cut:
                    chunks[-1] += tokens[:room]
                    tokens = tokens[room:]
                chunks.append([])
            chunks[-1] += tokens
        return chunks

    def lay_out(self, chunks: list[list[_Token]]) -> _Layout:
        special = (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id, self.tokenizer.pad_token_id)
        bos, eos, pad = (_Token(number, 1.0) for number in special)
        full = [[bos, *chunk, eos, *[pad] * (self.content_length - len(chunk))] for chunk in chunks]
        return _Layout(
            ids=torch.tensor([[token.id for token in chunk] for chunk in full]),
            weights=torch.tensor([[[token.weight] for token in chunk] for chunk in full]),
            vectors={
                (row, place): token.vector
                for row, chunk in enumerate(full)
                for place, token in enumerate(chunk)
                if token.vector is not None
            },
        )

    @torch.no_grad()
    def encode(self, layout: _Layout) -> tuple[Tensor, Tensor | None]:
        """Return the states `[n,77,width]` and the first chunk's projected summary `[1,P]`, if any."""
        self.memory.load(self.module)
        with _replaced_embeddings(self.module.get_input_embeddings(), layout.vectors):
            output = self.module(layout.ids.to(self.memory.device), output_hidden_states=True)
        states = output.last_hidden_state if self.layer == "last" else output.hidden_states[-2]
        pooled = getattr(output, "text_embeds", None)
        return states.float().cpu(), None if pooled is None else pooled[:1].float().cpu()

    def _text(self, piece: Piece) -> list[_Token]:
        # verbose=False: no warning about more than 77 tokens, which are chunked here.
        ids = self.tokenizer(piece.text, add_special_tokens=False, verbose=False)["input_ids"]
        return [_Token(number, piece.weight) for number in ids]

    def _embedding(self, piece: Piece) -> list[_Token]:
        # Id 0 ("!") is only a place holder. It is neither EOS nor the largest id: by one of these two,
        # depending on the age of the configuration, CLIP finds the token whose state is the summary.
        return [_Token(0, piece.weight, vector) for vector in self.embeddings[piece.text].vectors[self.key]]


@contextmanager
def _replaced_embeddings(table: nn.Module, vectors: dict[tuple[int, int], Tensor]) -> Iterator[None]:
    """Let the embedding table answer with these vectors at these places, and leave no trace."""

    def replace(_module: nn.Module, _inputs: tuple[Tensor, ...], embedded: Tensor) -> Tensor:
        for (row, place), vector in vectors.items():
            embedded[row, place] = vector.to(embedded)
        return embedded

    hook = table.register_forward_hook(replace)
    try:
        yield
    finally:
        hook.remove()
