"""Prompts become the conditioning that diffusers computes for them, also long and weighted ones.

The same is compared with ComfyUI in tests/host/test_prompts_like_comfyui.py.
"""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from torch import Tensor

from creative_upscaler.pipelines.errors import Cancelled, ParameterError
from creative_upscaler.pipelines.prompt_notation import Piece, read_prompt, read_weights
from creative_upscaler.pipelines.prompting import encode_prompts
from creative_upscaler.pipelines.runtime import LocalMemory, Runtime
from tiny_text_models import EMBEDDINGS, make_text_models

PROMPTS = ("", "a photo of a cat", "Łódź by night, 4k\n\n«sharp», very   detailed 😀!!!", "cat " * 75)
RUNTIME = Runtime(LocalMemory(torch.device("cpu")))
SD15 = make_text_models("sd15")
SDXL = make_text_models("sdxl")
FAMILIES = pytest.mark.parametrize("models", [SD15, SDXL], ids=["sd15", "sdxl"])


def encode(models: SimpleNamespace, *prompts: str) -> list:
    return encode_prompts(models, prompts, RUNTIME)


def encode_with_diffusers(models: SimpleNamespace, prompt: str, names: tuple[str, ...] = ()) -> tuple:
    """Hidden states and summary by diffusers' pipeline with these textual inversions loaded, in copies."""
    first, *others = copy.deepcopy(models.text_encoders) if names else models.text_encoders
    absent = dict.fromkeys(("vae", "unet", "scheduler", "feature_extractor", "image_encoder"))
    if not others:
        pipeline = StableDiffusionPipeline(
            text_encoder=first.module,
            tokenizer=first.tokenizer,
            safety_checker=None,
            requires_safety_checker=False,
            **absent,
        )
    else:
        second = others[0]
        pipeline = StableDiffusionXLPipeline(
            text_encoder=first.module,
            tokenizer=first.tokenizer,
            text_encoder_2=second.module,
            tokenizer_2=second.tokenizer,
            **absent,
        )
    for name in names:
        for key, encoder in zip(("clip_l", "clip_g"), (first, *others), strict=False):
            pipeline.load_textual_inversion(
                {name: models.embeddings[name].vectors[key]},
                text_encoder=encoder.module,
                tokenizer=encoder.tokenizer,
            )
    with torch.no_grad():
        encoded = pipeline.encode_prompt(
            prompt, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False
        )
    return encoded[0], encoded[2] if others else None


def assert_close(actual: Tensor | None, expected: Tensor | None, tolerance: float = 1e-5) -> None:
    if expected is None:
        assert actual is None
    else:
        torch.testing.assert_close(actual, expected, atol=tolerance, rtol=0)


def chunk(hidden: Tensor, index: int) -> Tensor:
    return hidden[:, 77 * index : 77 * (index + 1)]


@FAMILIES
@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_prompt_of_one_chunk_is_encoded_as_diffusers_does(models: SimpleNamespace, prompt: str) -> None:
    (conditioning,) = encode(models, prompt)
    hidden, pooled = encode_with_diffusers(models, prompt)
    assert_close(conditioning.hidden, hidden)
    assert_close(conditioning.pooled, pooled)


@FAMILIES
def test_a_textual_inversion_is_encoded_as_diffusers_does(models: SimpleNamespace) -> None:
    (conditioning,) = encode(models, "a dog in the style of Wobble, bad-hands-5")
    hidden, pooled = encode_with_diffusers(
        models, "a dog in the style of wobble, bad-hands-5", ("wobble", "bad-hands-5")
    )
    assert_close(conditioning.hidden, hidden)
    assert_close(conditioning.pooled, pooled)
    (without,) = encode(models, "a dog in the style of wobbles, bad hands")
    assert (without.hidden - hidden).abs().max() > 0.1


@FAMILIES
def test_what_exceeds_75_tokens_is_encoded_in_further_chunks(models: SimpleNamespace) -> None:
    (conditioning,) = encode(models, "cat " * 75 + "dog " * 75 + "a red house")
    assert conditioning.hidden.shape[1] == 3 * 77
    for index, prompt in enumerate(("cat " * 75, "dog " * 75, "a red house")):
        assert_close(chunk(conditioning.hidden, index), encode_with_diffusers(models, prompt)[0])
    assert_close(conditioning.pooled, encode_with_diffusers(models, "cat " * 75)[1])


@FAMILIES
def test_weighted_words_stay_together_in_a_chunk_and_longer_text_is_cut(models: SimpleNamespace) -> None:
    (whole,) = encode(models, "cat " * 74 + "(a b c d e f g:1.2)")
    assert_close(chunk(whole.hidden, 0), encode_with_diffusers(models, "cat " * 74)[0])
    assert_close(chunk(whole.hidden, 1), encode(models, "(a b c d e f g:1.2)")[0].hidden)
    (cut,) = encode(models, "cat " * 74 + "(a b c d e f g h:1.2)")
    assert_close(chunk(cut.hidden, 0), encode(models, "cat " * 74 + "(a:1.2)")[0].hidden)
    assert_close(chunk(cut.hidden, 1), encode(models, "(b c d e f g h:1.2)")[0].hidden)


@FAMILIES
def test_prompts_of_different_lengths_are_repeated_to_one_length(models: SimpleNamespace) -> None:
    prompts = ["cat " * 160, "a (red:1.4) house", "dog " * 80]
    for prompt, together in zip(prompts, encode(models, *prompts), strict=True):
        (alone,) = encode(models, prompt)
        assert together.hidden.shape[1] == 6 * 77  # three, one and two chunks
        repeats = together.hidden.shape[1] // alone.hidden.shape[1]
        assert_close(together.hidden, alone.hidden.repeat(1, repeats, 1))


@FAMILIES
def test_a_weight_moves_a_words_state_away_from_the_empty_prompts(models: SimpleNamespace) -> None:
    (conditioning,) = encode(models, "a (red:1.5) (house) [by] (night:-0.5)")
    plain, pooled = encode_with_diffusers(models, "a red house [by] night")
    empty, _ = encode_with_diffusers(models, "")
    weights = torch.ones(77, 1)
    for place, weight in ((2, 1.5), (3, 1.1), (7, -0.5)):  # BOS a red house [ by ] night
        weights[place] = weight
    assert_close(conditioning.hidden, empty + weights * (plain - empty))
    assert_close(conditioning.pooled, pooled)


def test_weight_one_changes_no_bit() -> None:
    plain, weighted = encode(SDXL, "red", "(red:1.0)")
    assert torch.equal(plain.hidden, weighted.hidden)


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a cat", [("a cat", 1)]),
        ("a (cat)", [("a ", 1), ("cat", 1.1)]),
        ("((cat))", [("cat", 1.21)]),
        ("(a (cat:1.5) b:1.3)", [("a ", 1.3), ("cat", 1.5), (" b", 1.3)]),
        ("(a (cat) b:2)", [("a ", 2), ("cat", 2.2), (" b", 2)]),
        ("(cat: .5 )s", [("cat", 0.5), ("s", 1)]),
        (r"a \(cat\) (b\))", [("a (cat) ", 1), ("b)", 1.1)]),
        ("(cat:loud)", [("cat:loud", 1.1)]),
        ("(cat:nan)", [("cat:nan", 1.1)]),
        ("(cat:inf)", [("cat:inf", 1.1)]),
        ("(:1.5)", [(":1.5", 1.1)]),
        ("a (cat", [("a ", 1), ("(cat", 1)]),
        (r"(cat\)", [("(cat)", 1)]),
        ("a) cat", [("a) cat", 1)]),
        ("a () b", [("a ", 1), (" b", 1)]),
        ("", []),
    ],
)
def test_weights_mean_what_they_mean_in_comfyui(prompt: str, expected: list[tuple[str, float]]) -> None:
    assert read_weights(prompt) == [(text, pytest.approx(weight)) for text, weight in expected]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a wobble b", [("a ", 1), "wobble", (" b", 1)]),
        ("embedding:wobble", ["wobble"]),
        ("x,embedding:Wobble.safetensors, y", [("x,", 1), "wobble", (", y", 1)]),
        ("embedding:sub/wobble", ["wobble"]),
        (r"embedding:sub\wobble.pt", ["wobble"]),
        (
            "WOBBLE. wobbles unwobble wobble-1 wobble.v2",
            ["wobble", (". wobbles unwobble wobble-1 wobble.v2", 1)],
        ),
        ("bad-hands bad-hands-5", ["bad-hands", (" ", 1), "bad-hands-5"]),
        ("a wobble twice", [("a ", 1), "wobble twice"]),
    ],
)
def test_textual_inversions_are_found_by_either_name(prompt: str, expected: list) -> None:
    pieces = [piece for piece in read_prompt(prompt, [*EMBEDDINGS, "wobble twice"]) if piece.text]
    assert pieces == [
        Piece(item, 1.0, is_embedding=True) if isinstance(item, str) else Piece(*item) for item in expected
    ]


@FAMILIES
def test_a_weight_applies_to_all_vectors_of_a_textual_inversion(models: SimpleNamespace) -> None:
    (conditioning,) = encode(models, "a (embedding:wobble:1.3)")
    plain, _ = encode_with_diffusers(models, "a wobble", ("wobble",))
    empty, _ = encode_with_diffusers(models, "")
    weights = torch.ones(77, 1)
    weights[2:5] = 1.3
    assert_close(conditioning.hidden, empty + weights * (plain - empty))


def test_a_textual_inversion_that_does_not_fit_begins_the_next_chunk() -> None:
    (conditioning,) = encode(SDXL, "cat " * 70 + "mob-of-12, dog")
    assert_close(chunk(conditioning.hidden, 0), encode_with_diffusers(SDXL, "cat " * 70)[0])
    assert_close(
        chunk(conditioning.hidden, 1), encode_with_diffusers(SDXL, "mob-of-12, dog", ("mob-of-12",))[0]
    )


def test_a_textual_inversion_longer_than_a_chunk_loses_nothing() -> None:
    (conditioning,) = encode(SD15, "scroll")
    halves = copy.copy(SD15)
    vectors = SD15.embeddings["scroll"].vectors["clip_l"]
    halves.embeddings = {
        "first": SimpleNamespace(vectors={"clip_l": vectors[:75]}),
        "second": SimpleNamespace(vectors={"clip_l": vectors[75:]}),
    }
    assert_close(conditioning.hidden, encode(halves, "first second")[0].hidden)


@pytest.mark.parametrize(
    "prompt", ["embedding:wobbel", "a (embedding:wobble-2:1.3)", "embedding:", "embedding:wobble.v2"]
)
def test_an_unknown_textual_inversion_is_an_error_that_names_the_known(prompt: str) -> None:
    with pytest.raises(
        ParameterError, match=r"no textual inversion.*bad-hands, bad-hands-5, mob-of-12, scroll, wobble"
    ):
        encode(SD15, prompt)


def test_the_summary_is_found_under_the_old_configuration_too() -> None:
    """Before transformers 4.31 CLIP's configurations said eos_token_id 2; published SDXL folders still do."""
    old = copy.deepcopy(SDXL)
    old.text_encoders[1].module.text_model.eos_token_id = 2
    for prompt in ("a cat", "a wobble cat", "mob-of-12"):
        assert torch.equal(encode(old, prompt)[0].pooled, encode(SDXL, prompt)[0].pooled)


def test_encoding_leaves_the_models_as_they_were() -> None:
    before = copy.deepcopy(SDXL.text_encoders)
    encode(SDXL, "a wobble")
    for encoder, old in zip(SDXL.text_encoders, before, strict=True):
        assert len(encoder.tokenizer) == len(old.tokenizer)
        assert not encoder.module.get_input_embeddings()._forward_hooks
        for name, tensor in encoder.module.state_dict().items():
            assert torch.equal(tensor, old.module.state_dict()[name])


def test_the_result_is_float32_whatever_the_encoders_compute_in() -> None:
    models = copy.deepcopy(SDXL)
    for encoder in models.text_encoders:
        encoder.module.to(torch.bfloat16)
    (conditioning,) = encode(models, "a (wobble:1.2) cat")
    assert conditioning.hidden.dtype == conditioning.pooled.dtype == torch.float32
    (exact,) = encode(SDXL, "a (wobble:1.2) cat")
    assert (conditioning.hidden - exact.hidden).abs().mean() < 0.05


def test_each_distinct_prompt_is_encoded_once_and_reported() -> None:
    calls: list[tuple] = []
    memory = LocalMemory(torch.device("cpu"))
    memory.load = lambda *modules, activation_bytes=0: calls.append(modules)
    reports: list[tuple] = []
    runtime = Runtime(memory, lambda *report: reports.append(report))
    first, second, third = encode_prompts(SDXL, ["cat", "dog", "cat"], runtime)
    assert torch.equal(first.hidden, third.hidden) and not torch.equal(first.hidden, second.hidden)
    # Each encoder, made resident before each use: the empty prompt and two others.
    assert calls == [(encoder.module,) for encoder in SDXL.text_encoders for _ in range(3)]
    assert reports[-1] == ("encode prompt", 4, 4)
    assert len(reports) == len(calls)


def test_a_caller_can_stop_it() -> None:
    def stop(*_report: object) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        encode_prompts(SD15, ["wobble"], Runtime(RUNTIME.memory, stop))
