"""Every number of a model's configuration has bounds, and they are kept whoever wrote the number."""

from dataclasses import MISSING, fields, is_dataclass, replace
from typing import get_args, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.attention import ATTENTIONS
from asr.errors import UserError
from asr.model.config import ModelConfig, model_from_dict, model_to_dict
from asr.model.conformer import EncoderConfig
from asr.model.frontend import FrontendConfig


def numbers(cls, path=()):
    """Path, field and kind of every number of a dataclass, in tuples and inner dataclasses too."""
    kinds = get_type_hints(cls)
    for item in fields(cls):
        kind = kinds[item.name]
        if is_dataclass(kind):
            yield from numbers(kind, (*path, item.name))
        elif {kind, *get_args(kind)} & {int, float}:
            yield (*path, item.name), item, kind


SECTIONS = {"encoder": EncoderConfig, "frontend": FrontendConfig}
CASES = [
    (attention, section, path, item, kind)
    for attention, mechanism in ATTENTIONS.items()
    for section, cls in {**(SECTIONS if attention == "mala" else {}), "options": mechanism.Options}.items()
    for path, item, kind in numbers(cls)
]
NAMES = [".".join([case[0] if case[1] == "options" else case[1], *case[2]]) for case in CASES]


@pytest.mark.parametrize("attention, section, path, item, kind", CASES, ids=NAMES)
@given(data=st.data())
def test_a_number_out_of_its_bounds_is_refused_by_name(attention, section, path, item, kind, data):
    least, most = item.metadata["bounds"]
    value = data.draw(
        st.one_of(
            st.integers(max_value=int(least) - 1),
            st.integers(min_value=int(most) + 1),
            st.integers(min_value=10**9),
        )
    )
    value = float(min(max(value, -(10**300)), 10**300)) if float in {kind, *get_args(kind)} else value
    plain = model_to_dict(ModelConfig(attention))
    *inner, name = path
    place = plain["options"][attention] if section == "options" else plain[section]
    for step in inner:
        place = place[step]
    place[name] = [1.0, value] if get_args(kind) else value
    option = ".".join([attention if section == "options" else section, *path])
    with pytest.raises(UserError, match=rf"^--{option} .*: out of range; it goes from"):
        model_from_dict(plain)


@pytest.mark.parametrize("attention, section, path, item, kind", CASES, ids=NAMES)
def test_the_default_lies_within(attention, section, path, item, kind):
    assert item.default is not MISSING
    least, most = item.metadata["bounds"]
    values = item.default if get_args(kind) else [item.default]
    assert all(least <= value <= most for value in values) and most <= 10_000


def test_a_configuration_of_our_own_is_bounded_too():
    options = replace(ATTENTIONS["agent"].Options(), agents=10**9)
    with pytest.raises(
        UserError, match=r"^--agent\.agents 1000000000: out of range; it goes from 1 to 4096$"
    ):
        ModelConfig("agent", options={"agent": options})
