"""CLIP's tokenizer: that of every SD1.5 and SDXL model, which ships with the pack, or a folder's own."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from tempfile import TemporaryDirectory

from transformers import CLIPTokenizer

from ..errors import ModelFileError
from .layouts import read_json

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
    return _build({token: number for number, token in enumerate(tokens)}, merges, pad_token)


def read_tokenizer(folder: Path, pad_token: str) -> CLIPTokenizer:
    """The tokenizer of a diffusers folder, of the same kind with words of its own, for prompts of 77.

    Reads `vocab.json` and `merges.txt` (transformers 4), else `tokenizer.json` (transformers 5).
    Raises ModelFileError for files that are damaged, or lack the tokens that begin and end a prompt.
    """
    if (folder / "vocab.json").is_file():
        vocabulary = read_json(folder / "vocab.json")
        try:
            lines = (folder / "merges.txt").read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError) as error:
            raise ModelFileError(folder, f"has a tokenizer without readable merges.txt: {error}") from error
        merges = [line for line in lines if line and not line.startswith("#version")]
    else:
        model = read_json(folder / "tokenizer.json").get("model")
        model = model if isinstance(model, dict) else {}
        vocabulary = model.get("vocab") or {}
        pairs = model.get("merges") or []
        merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in pairs]
    missing = {"<|startoftext|>", "<|endoftext|>", pad_token} - set(vocabulary)
    if missing:
        raise ModelFileError(folder, f"has a tokenizer without {', '.join(sorted(missing))}")
    try:
        return _build(vocabulary, merges, pad_token)
    except Exception as error:  # words and merges that do not fit fail in transformers' many ways
        raise ModelFileError(folder, f"has a tokenizer that cannot be read: {error}") from error


def _build(vocabulary: dict[str, int], merges: list[str], pad_token: str) -> CLIPTokenizer:
    # Through files, since that is the one form which transformers 4 and 5 both take.
    with TemporaryDirectory() as folder:
        (Path(folder) / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
        (Path(folder) / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]), encoding="utf-8")
        tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True, model_max_length=77)
    # Set afterwards: given at the start, CLIP-G's exclamation mark would be cut out of every text.
    tokenizer.pad_token = pad_token
    return tokenizer
