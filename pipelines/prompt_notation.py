"""ComfyUI's prompt notation: `(word:1.2)` weights and `embedding:name` textual inversions."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from .errors import ParameterError

# What a bare pair of parentheses multiplies the weight by.
EMPHASIS = 1.1

_PARENTHESIS = re.compile(r"\\[()]|[()]")
_GROUP = re.compile(r"\((.*)(?<!\\)\)", re.DOTALL)
_LEFT_BOUNDARY = r"(?<![\w-])"
_RIGHT_BOUNDARY = r"(?![\w-]|\.\w)"
_UNKNOWN_EMBEDDING = re.compile(_LEFT_BOUNDARY + r"embedding:\s*([^\s,]*)", re.IGNORECASE)


@dataclass(frozen=True)
class Piece:
    """A run of text, or the name of a textual inversion, with the weight of all its tokens."""

    text: str
    weight: float
    is_embedding: bool = False


def read_prompt(prompt: str, embedding_names: Collection[str]) -> list[Piece]:
    """Split a prompt into text and textual inversions, each with its weight.

    `embedding:name` (also with a folder before it or an extension after it) and the bare name as a word of
    its own, in upper or lower case, mean the textual inversion; the piece has the name as it is spelled in
    `embedding_names`. Raises `ParameterError` for an `embedding:` of any other name.
    """
    return [
        piece
        for text, weight in read_weights(prompt)
        for piece in _split_at_embeddings(text, weight, sorted(embedding_names, key=len, reverse=True))
    ]


def read_weights(prompt: str) -> list[tuple[str, float]]:
    r"""Split a prompt into runs of text of one weight, as ComfyUI 0.3 and 0.8 do.

    `(text)` multiplies the weight around it by 1.1, `(text:1.3)` sets it to 1.3 whatever is around it, `\(`
    and `\)` are parentheses of the text. Weights that are no finite numbers and parentheses without partner
    are text.
    """
    return [(re.sub(r"\\([()])", r"\1", text), weight) for text, weight in _weigh(prompt, 1.0) if text]


def _weigh(text: str, weight: float) -> Iterator[tuple[str, float]]:
    for run in _split_at_groups(text):
        if group := _GROUP.fullmatch(run):
            yield from _weigh(*_read_group(group[1], weight))
        else:
            yield run, weight


def _split_at_groups(text: str) -> Iterator[str]:
    """Yield the outermost parenthesised groups and what is between them."""
    depth = start = 0
    for match in _PARENTHESIS.finditer(text):
        if match[0] == "(":
            if depth == 0:
                yield text[start : match.start()]
                start = match.start()
            depth += 1
        elif match[0] == ")":
            # A surplus ")" goes below zero and takes the next "(" for its partner, as in ComfyUI.
            depth -= 1
            if depth == 0:
                yield text[start : match.end()]
                start = match.end()
    yield text[start:]


def _read_group(content: str, outer_weight: float) -> tuple[str, float]:
    text, _, number = content.rpartition(":")
    if text:
        try:
            weight = float(number)
        except ValueError:
            weight = math.nan
        if math.isfinite(weight):
            return text, weight
    return content, outer_weight * EMPHASIS


def _split_at_embeddings(text: str, weight: float, names: list[str]) -> Iterator[Piece]:
    """`names`: longest first, so that no name hides one that begins with it."""
    end = 0
    if names:
        choices = "|".join(f"({re.escape(name)})" for name in names)
        mention = rf"(?:embedding:\s*(?:[^\s,]*[/\\])?)?(?:{choices})(?:\.(?:safetensors|pt|bin))?"
        for match in re.finditer(_LEFT_BOUNDARY + mention + _RIGHT_BOUNDARY, text, re.IGNORECASE):
            yield _text_piece(text[end : match.start()], weight, names)
            assert match.lastindex is not None
            yield Piece(names[match.lastindex - 1], weight, is_embedding=True)
            end = match.end()
    yield _text_piece(text[end:], weight, names)


def _text_piece(text: str, weight: float, names: list[str]) -> Piece:
    if unknown := _UNKNOWN_EMBEDDING.search(text):
        known = ", ".join(sorted(names)) or "none"
        raise ParameterError(
            "prompt",
            f"there is no textual inversion {unknown[1]!r}; loaded are: {known}. "
            "Load its file or take `embedding:` out of the prompt.",
        )
    return Piece(text, weight)
