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
    assert Scheme.parse("w5a7") == Scheme("w5a7", 5, 7)
    scheme = Scheme("w2a16", 2, 16)
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
