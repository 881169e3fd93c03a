"""Captioners from folders that transformers saved; nothing in them is executed, nothing is downloaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from diffusers.utils import is_transformers_version
from torch import nn

from ..captioner_folders import CaptionerKind, recognize
from ..errors import ModelFileError
from ..runtime import Memory
from .files import read_header
from .layouts import read_json

_CLASSES = {
    CaptionerKind.FLORENCE2: ("Florence2ForConditionalGeneration", "CLIPImageProcessor"),
    CaptionerKind.BLIP2: ("Blip2ForConditionalGeneration", "BlipImageProcessor"),
    CaptionerKind.BLIP: ("BlipForConditionalGeneration", "BlipImageProcessor"),
}


@dataclass(frozen=True, eq=False)
class Captioner:
    """A captioning model with its tokenizer and how it wants its pictures."""

    path: Path
    kind: CaptionerKind
    model: Any
    tokenizer: Any
    image_processor: Any
    dtype: torch.dtype
    """Of what is given to it; some of its parts are kept in float32."""

    @property
    def networks(self) -> list[nn.Module]:
        """What takes room on a device."""
        return [self.model]

    @property
    def name(self) -> str:
        """The name of its folder."""
        return self.path.name


def load_captioner(folder: Path, memory: Memory) -> Captioner:
    """Load the BLIP-2 (OPT, T5), Florence-2 or BLIP captioner in `folder`, on the CPU.

    In the type `memory` has for text networks; parts that overflow in float16 (T5's `wo`, the Q-Former) stay
    in float32, as transformers says. Weights are safetensors, else pickles of nothing but weights.
    Raises `ModelFileError` for a folder that is no captioner, incomplete, damaged or unsafe.
    """
    kind = recognize(folder)
    is_safe = _check_weights(folder)
    names = _CLASSES[kind]
    if not all(hasattr(transformers, name) for name in names):
        raise ModelFileError(
            folder, f"needs a newer transformers than {transformers.__version__}: pip install -U transformers"
        )
    network_class, picture_class = (getattr(transformers, name) for name in names)
    dtype = memory.dtype("text")
    local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    options = local | {"use_safetensors": is_safe, "output_loading_info": True}
    options |= {"dtype": dtype} if is_transformers_version(">=", "4.56") else {"torch_dtype": dtype}
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **local)
        image_processor = picture_class.from_pretrained(folder, **local)
        model, report = network_class.from_pretrained(folder, **options)
    except Exception as error:  # a damaged folder fails in every way there is
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelFileError(folder, f"cannot be loaded as {kind.value}: {reason[:300]}") from error
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise ModelFileError(folder, f"is incomplete: it lacks {len(missing)} tensors, such as {missing[0]}")
    if kind is CaptionerKind.BLIP2:
        _give_image_token(model, tokenizer)
    for name, parameter in model.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            raise ModelFileError(folder, f"is damaged: {name} has values that are not finite")
    model.eval().requires_grad_(False)
    return Captioner(folder, kind, model, tokenizer, image_processor, dtype)


def _check_weights(folder: Path) -> bool:
    """Check the headers of what transformers is going to read; whether these are safetensors."""
    for name in ("model.safetensors", "pytorch_model.bin"):
        files = [folder / name]
        if (index := folder / f"{name}.index.json").is_file() and not files[0].is_file():
            shards = {str(shard) for shard in (read_json(index).get("weight_map") or {}).values()}
            if any(Path(shard).name != shard for shard in shards):
                raise ModelFileError(index, "leads out of its folder, so it is not trusted")
            files = [folder / shard for shard in sorted(shards)]
        if files and (files[0].is_file() or index.is_file()):
            for file in files:
                read_header(file)
            return name.endswith(".safetensors")
    raise ModelFileError(folder, "has no weights (model.safetensors or pytorch_model.bin, whole or in parts)")


def _give_image_token(model: Any, tokenizer: Any) -> None:
    """Name the token in whose place BLIP-2 is shown the picture.

    Folders from before transformers 4.46 name none, and their language model may have no room for it
    (huggingface/transformers#34225). Its own embedding is never seen, so that any free number will do.
    """
    token = model.config.image_token_index
    if token is None:
        known = tokenizer.get_vocab().get("<image>")
        token = len(tokenizer) if known is None else known
        model.config.image_token_index = token
    rows = model.get_input_embeddings().num_embeddings
    if token >= rows:
        # New rows are drawn at random, and nobody else's random numbers may depend on that.
        with torch.random.fork_rng(devices=[]):
            model.resize_token_embeddings(token + 1, mean_resizing=False)
        with torch.no_grad():
            for weights in (model.get_input_embeddings().weight, model.get_output_embeddings().weight):
                weights[rows:] = 0
