"""CLIP's tokenizer, the same for every SD1.5 and SDXL model, from the vocabulary that ships with the pack."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from tempfile import TemporaryDirectory

from transformers import CLIPTokenizer

_VOCABULARY = Path(__file__).parent / "configs" / "clip" / "bpe_simple_vocab_16e6.txt.gz"
_MERGES = 49152 - 256 - 2
"""CLIP was trained with 48 894 of the merges that the file lists (openai/CLIP, simple_tokenizer.py)."""


def make_tokenizer(pad_token: str) -> CLIPTokenizer:
    """A tokenizer of 49 408 tokens and prompts of 77, which fills short ones up with `pad_token`.

    CLIP-L was trained with `<|endoftext|>` there, CLIP-G with `!` (token 0).
    """
    merges = gzip.decompress(_VOCABULARY.read_bytes()).decode().split("\n")[1 : _MERGES + 1]
    # A letter for each byte, as in GPT-2's code: printable ones stand for themselves.
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(byte) for byte in printable] + [chr(256 + n) for n in range(256 - len(printable))]
    tokens = letters + [letter + "</w>" for letter in letters] + [merge.replace(" ", "") for merge in merges]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    # Through files, since that is the one form which transformers 4 and 5 both take.
    with TemporaryDirectory() as folder:
        vocabulary = {token: number for number, token in enumerate(tokens)}
        (Path(folder) / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
        (Path(folder) / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]), encoding="utf-8")
        tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True, model_max_length=77)
    # Set afterwards: given at the start, CLIP-G's exclamation mark would be cut out of every text.
    tokenizer.pad_token = pad_token
    return tokenizer
