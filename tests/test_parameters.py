"""The one declaration of the settings: fal's names and defaults, and clear errors for anything else."""

from __future__ import annotations

import math

import pytest

from creative_upscaler.pipelines.errors import ParameterError
from creative_upscaler.pipelines.parameters import PRESETS, UpscaleParameters

# fal-ai/creative-upscaler's published schema: name, default, smallest and largest value where published.
FAL_SCHEMA = {
    "model_type": ("SD_1_5", None, None),
    "prompt": ("", None, None),
    "scale": (2.0, 1, 5),
    "creativity": (0.5, 0, 1),
    "detail": (1.0, 0, 5),
    "shape_preservation": (0.25, 0, 3),
    "prompt_suffix": (" high quality, highly detailed, high resolution, sharp", None, None),
    "negative_prompt": (
        "blurry, low resolution, bad, ugly, low quality, pixelated, interpolated, compression artifacts, "
        "noisey, grainy",
        None,
        None,
    ),
    "seed": (None, None, None),
    "guidance_scale": (7.5, None, None),
    "num_inference_steps": (20, None, None),
    "enable_safety_checks": (True, None, None),
    "skip_ccsr": (False, None, None),
    "override_size_limits": (False, None, None),
    "base_model_url": (None, None, None),
    "additional_lora_url": (None, None, None),
    "additional_lora_scale": (1.0, None, None),
    "additional_embedding_url": (None, None, None),
}
DECLARED = {parameter.name: parameter for parameter in UpscaleParameters.declared()}


def test_fal_fields_keep_name_default_and_range():
    assert {name for name, parameter in DECLARED.items() if parameter.fal} == set(FAL_SCHEMA)
    for name, (default, minimum, maximum) in FAL_SCHEMA.items():
        assert DECLARED[name].default == default, name
        if minimum is not None:
            assert (DECLARED[name].minimum, DECLARED[name].maximum) == (minimum, maximum), name


def test_every_declaration_is_complete():
    for parameter in DECLARED.values():
        assert len(parameter.help) > 20, parameter.name
        if parameter.type in (int, float):
            assert None not in (parameter.minimum, parameter.maximum, parameter.step), parameter.name


@pytest.mark.parametrize("name", [p.name for p in DECLARED.values() if p.type in (int, float)])
def test_numbers_out_of_range_or_not_finite_name_the_field_and_its_range(name):
    parameter = DECLARED[name]
    for value in (parameter.minimum - 1, parameter.maximum + 1, math.nan, math.inf, "1", True, [1]):
        with pytest.raises(ParameterError, match=name) as caught:
            UpscaleParameters(**{name: value})
        assert parameter.allowed in str(caught.value)
        assert caught.value.field == name


@pytest.mark.parametrize("name", [p.name for p in DECLARED.values() if p.type in (str, bool)])
def test_values_of_the_wrong_type_are_refused(name):
    with pytest.raises(ParameterError, match=name):
        UpscaleParameters(**{name: 3})


def test_limits_themselves_are_allowed():
    for parameter in DECLARED.values():
        if parameter.type in (int, float):
            assert parameter.check(parameter.type(parameter.minimum)) == parameter.minimum
            assert parameter.check(parameter.type(parameter.maximum)) == parameter.maximum


def test_unknown_names_are_refused_with_a_suggestion():
    with pytest.raises(ParameterError, match="did you mean creativity"):
        UpscaleParameters.from_mapping({"creativty": 0.3})


def test_values_given_beside_a_preset_win_over_it():
    settings = UpscaleParameters.from_mapping({"preset": "clarity", "detail": 2.0})
    assert settings.creativity == PRESETS["clarity"]["creativity"]
    assert settings.detail == 2.0


def test_presets_hold_valid_settings_only():
    for name in PRESETS:
        assert UpscaleParameters(preset=name).with_preset() == UpscaleParameters.from_mapping(
            {"preset": name}
        )


def test_a_tile_smaller_than_two_overlaps_is_refused():
    with pytest.raises(ParameterError, match="tile_overlap"):
        UpscaleParameters(tile_size=192, tile_overlap=128)
