"""The settings of a caption, and how a caption becomes a prompt; light enough to be imported at start."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .errors import ParameterError
from .settings import Settings, declare

LENGTHS = ("brief", "detailed", "more_detailed")

AUTOMATIC_TOKENS = {"brief": 50, "detailed": 120, "more_detailed": 250}
"""Room for what captioners write at each length, with a third to spare."""

DEFAULT_WORDS = ", ".join(
    (
        # How a captioner speaks about a picture and not about what it shows.
        "the image shows, the image depicts, the image features, the image is of, this image shows",
        "this is an image of, this is a photo of, a close up of",
        # What a bad picture is said to be. As a prompt it would ask for just that.
        "the background is blurred, the background is blurry, the background is out of focus",
        "the image is blurry, the image is blurred, the image is pixelated, the image is out of focus",
        "a blurry photo of, a blurry image of, a blurry picture of, a blurred image of, a grainy photo of",
        "a pixelated photo of, a pixelated image of, a pixelated picture of",
        "a low resolution photo of, a low resolution image of",
        "a low quality photo of, a low quality image of",
        "blurry, blurred, pixelated, grainy, out of focus, low resolution, low quality, poor quality",
    )
)


@dataclass(frozen=True, kw_only=True)
class CaptionSettings(Settings):
    """How captions are made; every value is checked on construction.

    Raises `ParameterError` naming the field and its range.
    """

    length: str = declare(
        "detailed",
        "How much the captioner is asked to tell. Florence-2 has all three; BLIP and BLIP-2 write one short "
        "sentence whatever is asked.",
        choices=LENGTHS,
    )
    max_tokens: int = declare(
        0,
        "Most tokens (about 3/4 of a word each) of a caption; a longer one ends with its last whole "
        "sentence. 0 follows from the length.",
        minimum=0,
        maximum=1024,
        step=1,
        unit="tokens",
        advanced=True,
    )
    template: str = declare(
        "{caption}",
        "The prompt to make of the caption, which takes the place of the word caption in braces. Prompt "
        "weights work outside of it.",
        multiline=True,
    )
    strip_words: str = declare(
        DEFAULT_WORDS,
        "Words and phrases to take out of the caption, between commas or on lines of their own: the caption "
        "of a bad picture describes its badness, and as a prompt it would ask for it.",
        multiline=True,
        advanced=True,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if "{caption}" not in self.template:
            raise ParameterError(
                "template", f"got {self.template!r}; it must hold {{caption}}, where the caption belongs"
            )

    @property
    def token_limit(self) -> int:
        """`max_tokens`, or what suits `length`."""
        return self.max_tokens or AUTOMATIC_TOKENS[self.length]


def make_prompt(caption: str, settings: CaptionSettings) -> str:
    r"""A caption as a prompt: unwanted words taken out, parentheses escaped, put into the template.

    Words go in any case, only as whole words, the longest phrase first. A caption is plain text, so its
    parentheses become `\(` and `\)` of the prompt notation. Where nothing is left the result is empty, for a
    template without a caption would speak of nothing.
    """
    text = " ".join(caption.split())
    phrases = sorted(
        {" ".join(phrase.split()) for phrase in re.split(r"[,\n]", settings.strip_words)}, key=len
    )
    for phrase in reversed(phrases):
        if phrase:
            text = re.sub(rf"(?<!\w){re.escape(phrase)}(?!\w)", "", text, flags=re.IGNORECASE)
    text = _tidy(text)
    text = re.sub(r"(?<!\\)([()])", r"\\\1", text)
    return settings.template.replace("{caption}", text) if text else ""


def _tidy(text: str) -> str:
    """Close the gaps that taken out words leave: spaces, joints and punctuation with nothing between them."""
    text = re.sub(r"\s+([,.;:!?])", r"\1", " ".join(text.split()))
    text = re.sub(r"\b(an?|the)[,;:]", r"\1", text, flags=re.IGNORECASE)
    text = re.sub(r"(^|[.!?] )(?:and|but)\b", r"\1", text)
    text = re.sub(r"\b(?:and|but)(?=[,.;:!?]|$)", "", text)
    text = re.sub(r"[,.;:!?](?:\s*[,.;:!?])+", lambda marks: _strongest(marks[0]), text)
    return " ".join(text.strip(" ,;:").lstrip(".!? ").split())


def _strongest(marks: str) -> str:
    return next((mark for mark in marks if mark in ".!?"), marks[0])
