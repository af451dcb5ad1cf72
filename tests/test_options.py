from dataclasses import dataclass, field, fields
from typing import Literal

import pytest

from ebm_wgpu.errors import ConfigError
from ebm_wgpu.options import option, options_of


@dataclass(frozen=True)
class Part:
    flag: bool = option(False, "a switch")
    count: int | None = option(None, "a count", ge=1, lt=10)
    pair: tuple[int, int] = option((1, 2), "two counts", le=5)
    kind: Literal["one", "two"] = option("one", "a kind")


@dataclass(frozen=True)
class Whole:
    part: Part = field(default_factory=Part)


OPTIONS = options_of(Whole)


def test_options_carry_key_help_and_bounds():
    assert list(OPTIONS) == [f"part.{entry.name}" for entry in fields(Part)]
    count = OPTIONS["part.count"]
    assert (count.section, count.name, count.help) == ("part", "count", "a count")
    assert count.bounds == {">=": 1, "<": 10}
    assert Part() == Part(False, None, (1, 2), "one")


@pytest.mark.parametrize(
    ("text", "value"),
    [(word, True) for word in ("true", "True", "yes", "on", "1")]
    + [(word, False) for word in ("false", "FALSE", "no", "off", "0")],
)
def test_booleans_have_words(text, value):
    assert OPTIONS["part.flag"].parse(text) is value


@pytest.mark.parametrize(
    ("key", "text", "message"),
    [
        ("flag", "2", "part.flag=2 must be true or false"),
        ("count", "x", "part.count=x must be an integer, or none"),
        ("pair", "1,2,3", "must be 2 items between commas, each an integer"),
        ("kind", "three", "must be one or two"),
    ],
)
def test_text_of_another_type_is_refused(key, text, message):
    with pytest.raises(ConfigError, match=message):
        OPTIONS[f"part.{key}"].parse(text)


@pytest.mark.parametrize(
    ("key", "value"),
    [("count", 0), ("count", 10), ("count", True), ("pair", (1, 6)), ("pair", (1,))],
)
def test_values_outside_type_or_bounds_are_refused(key, value):
    with pytest.raises(ConfigError, match=rf"part\.{key}="):
        OPTIONS[f"part.{key}"].check(value)


def test_json_and_text_give_the_same_values():
    for key, text, value in (
        ("flag", "on", True),
        ("count", "none", None),
        ("count", "9", 9),
        ("pair", "3,4", [3, 4]),
        ("kind", "two", "two"),
    ):
        known = OPTIONS[f"part.{key}"]
        assert known.parse(text) == known.from_json(value)
        known.check(known.parse(text))
