import dataclasses
import json

import pytest

from quantvggt.core.errors import InputError
from quantvggt.core.scheme import PRESETS, Scheme


def test_presets_say_what_their_names_say():
    bits = {name: (scheme.name, scheme.weight_bits, scheme.act_bits) for name, scheme in PRESETS.items()}
    assert bits == {
        "w8a8": ("w8a8", 8, 8),
        "w6a6": ("w6a6", 6, 6),
        "w4a8": ("w4a8", 4, 8),
        "w4a4": ("w4a4", 4, 4),
        "w4a16": ("w4a16", 4, 16),
        "w3a4": ("w3a4", 3, 4),
        "w3a3": ("w3a3", 3, 3),
    }
    assert not Scheme.preset("w4a16").quantizes_activations
    assert Scheme.preset("w8a8").quantizes_activations


def test_unknown_preset_lists_the_presets():
    with pytest.raises(InputError, match=r"'w5a5'.*w8a8, w6a6"):
        Scheme.preset("w5a5")


def test_parse_takes_schemes_presets_and_legal_spellings():
    assert Scheme.parse("w4a4") == PRESETS["w4a4"]
    assert Scheme.parse("w5a7") == Scheme(5, 7)
    scheme = Scheme(2, 16)
    assert Scheme.parse(scheme) is scheme


@pytest.mark.parametrize("text", ["w1a8", "w9a8", "w8a9", "w4a1", "W4A4", "w4a4 ", "w04a4", "int4", "", None])
def test_parse_refuses_other_spellings(text):
    with pytest.raises(InputError):
        Scheme.parse(text)


@pytest.mark.parametrize("scheme", PRESETS.values(), ids=str)
def test_round_trip_through_json(scheme):
    assert Scheme.from_dict(json.loads(json.dumps(scheme.to_dict()))) == scheme


def test_scheme_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        PRESETS["w4a4"].weight_bits = 8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"group_size": 128}, "unknown keys group_size"),
        ({"version": 2}, "version 2 is not supported"),
        ({"version": True}, "version True"),
        ({"weight_bits": 16}, "weight_bits is 16"),
        ({"weight_bits": "4"}, "weight_bits is '4'"),
        ({"act_bits": 4.0}, "act_bits is 4.0"),
        ({"name": "w8a8"}, "must be 'w4a4'"),
    ],
)
def test_from_dict_refuses_what_it_does_not_know(change, message):
    with pytest.raises(InputError, match=message):
        Scheme.from_dict({**PRESETS["w4a4"].to_dict(), **change})


def test_from_dict_names_missing_keys():
    with pytest.raises(InputError, match="act_bits, version"):
        Scheme.from_dict({"name": "w4a4", "weight_bits": 4})
    with pytest.raises(InputError, match="object"):
        Scheme.from_dict("w4a4")


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("w4a4-tensor", {"per_tensor": True}),
        ("w4a4-static", {"static": True}),
        ("w4a4-asym", {"asymmetric": True}),
        ("w4a4-tensor-static-asym", {"per_tensor": True, "static": True, "asymmetric": True}),
        ("w3a3-s8", {"special_bits": 8}),
        ("w4a4-asym-s8", {"asymmetric": True, "special_bits": 8}),
    ],
)
def test_granularity_is_spelled_in_the_name_and_only_where_it_differs_in_json(text, fields):
    scheme = Scheme.parse(text)
    plain = Scheme.preset(text[:4])
    assert scheme.granular
    assert not plain.granular
    assert scheme.plain == plain
    assert scheme == dataclasses.replace(plain, **fields)
    assert (scheme.name, scheme.granularity) == (text, text[4:])
    values = scheme.to_dict()
    assert values == {**plain.to_dict(), "name": text, **fields}
    assert Scheme.from_dict(json.loads(json.dumps(values))) == scheme


def test_float8_is_a_kind_of_w8a8():
    scheme = Scheme.parse("w8a8-fp8")
    assert scheme == dataclasses.replace(PRESETS["w8a8"], number="fp8")
    assert (scheme.float8, scheme.granular, scheme.name, scheme.granularity) == (True, False, "w8a8-fp8", "-fp8")
    assert (scheme.plain, scheme.weights_only) == (scheme, Scheme(8, 16))
    values = scheme.to_dict()
    assert values == {**PRESETS["w8a8"].to_dict(), "name": "w8a8-fp8", "number": "fp8"}
    assert Scheme.from_dict(json.loads(json.dumps(values))) == scheme
    for number in ("fp4", None, 8, ["fp8"]):
        with pytest.raises(InputError, match="choose int or fp8"):
            Scheme.from_dict({**values, "number": number})


def test_json_of_a_plain_scheme_has_four_keys():
    assert PRESETS["w4a4"].to_dict() == {"name": "w4a4", "weight_bits": 4, "act_bits": 4, "version": 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("w4a4-static-tensor", "unknown scheme"),
        ("w4a4-s1", "unknown scheme"),
        ("w4a4-s16", "unknown scheme"),
        ("w4a4-token", "unknown scheme"),
        ("w4a16-static", "float activations have no ranges"),
        ("w4a16-s8", "float activations have no ranges"),
        ("w8a8-asym", "at most 7 bits"),
        ("w8a8-fp8-static", "unknown scheme"),
        ("w4a8-fp8", "'w4a8-fp8': fp8 is for w8a8 with dynamic per-token scales; use w8a8-fp8"),
        ("w8a16-fp8", "use w8a8-fp8"),
        ("w8a8-tensor-fp8", "use w8a8-fp8"),
        ("w8a8-static-fp8", "use w8a8-fp8"),
        ("w8a8-s8-fp8", "use w8a8-fp8"),
        ("w4a4-tensor-s8", "dynamic per-token scales"),
        ("w4a4-static-s8", "dynamic per-token scales"),
    ],
)
def test_granularity_that_cannot_be_is_refused(text, message):
    with pytest.raises(InputError, match=message):
        Scheme.parse(text)


@pytest.mark.parametrize(
    "change",
    [
        {"name": "w4a4-s16", "special_bits": 16},
        {"name": "w4a4-s8", "special_bits": "8"},
        {"name": "w4a4-s1", "special_bits": True},
        {"name": "w4a4-static", "static": 1},
        {"name": "w4a4-static"},
        {"static": True},
    ],
)
def test_from_dict_refuses_granularity_of_the_wrong_kind(change):
    with pytest.raises(InputError):
        Scheme.from_dict({**PRESETS["w4a4"].to_dict(), **change})


def test_a_scheme_is_made_from_another_field_by_field():
    scheme = Scheme.parse("w4a4-tensor-static")
    assert dataclasses.replace(scheme, static=False).name == "w4a4-tensor"
    assert dataclasses.replace(scheme, weight_bits=8) == Scheme.parse("w8a4-tensor-static")
    assert scheme.weights_only.name == "w4a16"
    assert scheme.with_granularity("-asym-s8").name == "w4a4-asym-s8"
    assert scheme.with_granularity("") == PRESETS["w4a4"]
    for change, message in (
        ({"special_bits": 8}, "'w4a4-tensor-static-s8': special tokens"),
        ({"act_bits": 16}, "'w4a16-tensor-static': float activations"),
        ({"weight_bits": 1}, "'w1a4-tensor-static': weight_bits is 1"),
    ):
        with pytest.raises(InputError, match=message):
            dataclasses.replace(scheme, **change)
    with pytest.raises(InputError, match="unknown scheme 'w4a4-s9'"):
        scheme.with_granularity("-s9")
