"""What a picture shows, in words: BLIP-2, Florence-2 and BLIP, for prompts.

Greedy choices are replaced by a beam search and never by drawing, so the same picture and settings always
give the same caption.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import StoppingCriteria, StoppingCriteriaList

from .caption_settings import CaptionSettings, make_prompt
from .captioner_folders import CaptionerKind
from .errors import MemoryLimitError, ModelFileError
from .models.captioners import Captioner, load_captioner
from .resizing import check_image, resize, split_alpha
from .runtime import Progress, Runtime

__all__ = ["CaptionSettings", "Captioner", "caption", "load_captioner", "make_prompt"]

LONGEST_SIDE = 768
"""Pixels on the longer side that a captioner is given; the most any of them looks at (Florence-2)."""

BEAMS = 3
"""Florence-2's own setting; BLIP-2's authors take 5, which reads the same and takes longer."""

ACTIVATION_BYTES = 2**30
"""Upper estimate of what captioning one picture needs beside the weights: 3 beams of 900 tokens."""

TASKS = {
    # Florence-2 was trained on these sentences; the markers of its publication stand for them.
    "brief": "What does the image describe?",
    "detailed": "Describe in detail what is shown in the image.",
    "more_detailed": "Describe with a paragraph what is shown in the image.",
}


@torch.inference_mode()
def caption(
    image: Tensor,
    captioner: Captioner,
    settings: CaptionSettings | None = None,
    runtime: Runtime | None = None,
) -> list[str]:
    """A prompt for each picture of `[B,1|3|4,H,W]` float in 0..1: its caption after `make_prompt`.

    Pictures are captioned one by one, so none depends on the others; alpha is not looked at. May be an empty
    text, where nothing but unwanted words was said.
    Raises `PictureError`, `MemoryLimitError` when it does not fit into memory, and what `runtime.progress`
    raises to stop, which it is told of before every token.
    """
    settings, runtime = settings or CaptionSettings(), runtime or Runtime()
    image, _ = split_alpha(check_image(image))
    prompts = []
    for index in range(len(image)):
        progress = _PictureProgress(runtime.progress, index, len(image), settings.token_limit)
        progress.report(0)
        picture = _shrink(image[index])
        try:
            runtime.memory.load(*captioner.networks, activation_bytes=ACTIVATION_BYTES)
            text = _write(picture, captioner, settings, runtime.memory.device, progress)
        except Exception as error:
            if not runtime.memory.is_out_of_memory(error):
                raise
            raise MemoryLimitError(
                f"the captioner {captioner.name} does not fit into memory; free memory or use a smaller one"
            ) from error
        prompts.append(make_prompt(text, settings))
        progress.report(settings.token_limit)
    return prompts


class _PictureProgress(StoppingCriteria):
    """Told of every token by transformers; tells `Progress`, which may raise."""

    def __init__(self, progress: Progress, index: int, pictures: int, tokens: int) -> None:
        self._progress, self._index, self._pictures, self._tokens = progress, index, pictures, tokens
        self._done = 0

    def report(self, tokens: int) -> None:
        done = self._index * self._tokens + min(tokens, self._tokens)
        self._progress("caption", done, self._pictures * self._tokens)

    def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
        self._done += 1
        self.report(self._done)
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


def _shrink(picture: Tensor) -> Image.Image:
    """`[3,H,W]` as the picture that the image processors were made for."""
    height, width = picture.shape[1:]
    ratio = min(1.0, LONGEST_SIDE / max(height, width))
    small = resize(picture[None], (max(1, round(height * ratio)), max(1, round(width * ratio))))[0]
    return Image.fromarray((small * 255).round().byte().permute(1, 2, 0).cpu().numpy().astype(np.uint8))


def _write(
    picture: Image.Image,
    captioner: Captioner,
    settings: CaptionSettings,
    device: torch.device,
    progress: _PictureProgress,
) -> str:
    model = captioner.model
    pixels = captioner.image_processor(images=picture, return_tensors="pt")["pixel_values"]
    inputs: dict[str, Any] = {"pixel_values": pixels.to(device, captioner.dtype)}
    shown = _question(captioner, settings, pixels)
    if shown:
        inputs["input_ids"] = torch.tensor([shown], device=device)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    output = model.generate(
        **inputs,
        **_ending(captioner),
        max_new_tokens=settings.token_limit,
        num_beams=BEAMS,
        do_sample=False,
        num_return_sequences=1,
        no_repeat_ngram_size=3,
        stopping_criteria=StoppingCriteriaList([progress]),
    )[0].tolist()
    # Decoders that continue their input give it back in front of the caption.
    if shown and output[: len(shown)] == shown:
        output = output[len(shown) :]
    text = captioner.tokenizer.decode(output, skip_special_tokens=True).strip()
    if captioner.kind is not CaptionerKind.FLORENCE2:
        return text.splitlines()[0] if text else ""
    return _whole_sentences(text) if len(output) > settings.token_limit else text


def _question(captioner: Captioner, settings: CaptionSettings, pixels: Tensor) -> list[int]:
    """The tokens the language model is given: places for the picture, and what is asked of it.

    Spelled out here, for the processors of transformers leave the places out where a setting is missing,
    and the model then tells fluently of a picture it was never shown. BLIP needs none.
    """
    model, tokenizer = captioner.model, captioner.tokenizer
    if captioner.kind is CaptionerKind.BLIP:
        return []
    text = model.config.text_config
    if captioner.kind is CaptionerKind.BLIP2:
        token, places = model.config.image_token_index, model.config.num_query_tokens
        asked = [text.eos_token_id if text.is_encoder_decoder else text.bos_token_id]
    else:
        token, places = model.config.image_token_id, _florence_places(model.config.vision_config, pixels)
        words = tokenizer(TASKS[settings.length], add_special_tokens=False)["input_ids"]
        asked = [text.bos_token_id, *words, text.eos_token_id]
    asked = [number[0] if isinstance(number, list) else number for number in asked]
    if token in asked or None in asked:
        raise ModelFileError(
            captioner.path, "has settings that contradict each other: its image token is a word; get it again"
        )
    return [token] * places + asked


def _florence_places(vision: Any, pixels: Tensor) -> int:
    """How many tokens a picture becomes: one for each place of the last, coarsest map, and their mean."""
    sides = list(pixels.shape[-2:])
    for size, stride, padding in zip(
        vision.patch_size, vision.patch_stride, vision.patch_padding, strict=True
    ):
        sides = [(side + 2 * padding - size) // stride + 1 for side in sides]
    return math.prod(sides) + 1


def _ending(captioner: Captioner) -> dict[str, Any]:
    """What else BLIP-2's language model is to be told, since it does not read the folder's settings."""
    if captioner.kind is not CaptionerKind.BLIP2:
        return {}
    ends = [captioner.model.generation_config.eos_token_id, captioner.model.config.text_config.eos_token_id]
    numbers = {number for end in ends for number in (end if isinstance(end, list) else [end])} - {None}
    return {
        "eos_token_id": sorted(numbers) or None,
        "suppress_tokens": [captioner.model.config.image_token_index],
    }


def _whole_sentences(text: str) -> str:
    """Without the sentence that the limit has cut, if there is a whole one before it."""
    end = max(text.rfind(mark) for mark in ".!?")
    return text[: end + 1] if end > 0 else text
