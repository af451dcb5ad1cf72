"""Typed options: a dataclass field with help and bounds, read from text or JSON."""

from __future__ import annotations

import dataclasses
import json
import math
import operator
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from ebm_wgpu.errors import ConfigError

T = TypeVar("T")

_COMPARE: Mapping[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    ">": operator.gt,
    "<=": operator.le,
    "<": operator.lt,
}
_BOOLEANS = {"true": True, "yes": True, "on": True, "1": True} | {
    "false": False,
    "no": False,
    "off": False,
    "0": False,
}
_NONES = ("none", "null")
_KINDS = {bool: "true or false", int: "an integer", float: "a number", str: "text"}


def option(
    default: T,
    help: str,
    *,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
) -> T:
    """A dataclass field with `default`, one line of `help` and inclusive or exclusive bounds."""
    bounds = {">=": ge, ">": gt, "<=": le, "<": lt}
    given = {sign: bound for sign, bound in bounds.items() if bound is not None}
    return field(default=default, metadata={"help": help, "bounds": given})


def options_of(config: type) -> dict[str, Option]:
    """The options of a dataclass whose fields are dataclasses (sections) of `option` fields."""
    sections = typing.get_type_hints(config)
    return {
        f"{section}.{entry.name}": Option(
            f"{section}.{entry.name}",
            typing.get_type_hints(kind)[entry.name],
            entry.metadata["help"],
            entry.metadata["bounds"],
        )
        for section, kind in sections.items()
        for entry in dataclasses.fields(kind)
    }


@dataclass(frozen=True)
class Option:
    """One settable value.

    Attributes:
        key: `section.name`, as overrides give it.
        hint: its type.
        help: what it sets, in one line.
        bounds: limits by sign, such as {">=": 1}; of each item where it is a tuple.
    """

    key: str
    hint: Any
    help: str
    bounds: Mapping[str, float]

    @property
    def section(self) -> str:
        """The part of the configuration it is in."""
        return self.key.partition(".")[0]

    @property
    def name(self) -> str:
        """Its name within its section."""
        return self.key.partition(".")[2]

    def parse(self, text: str) -> Any:
        """The value `text` stands for.

        Raises:
            ConfigError: `text` is not of this option's type.
        """
        try:
            return _parse(text.strip(), self.hint)
        except ValueError as error:
            raise self._mismatch(text) from error

    def from_json(self, value: Any) -> Any:
        """The value that JSON value `value` stands for.

        Raises:
            ConfigError: `value` is not of this option's type.
        """
        try:
            return _convert(value, self.hint)
        except (ValueError, OverflowError) as error:
            raise self._mismatch(json.dumps(value)) from error

    def check(self, value: Any) -> None:
        """Check type and range of `value`.

        Raises:
            ConfigError: `value` is of another type, not finite, or out of bounds.
        """
        if isinstance(value, list):
            raise self._mismatch(repr(value))
        try:
            _convert(list(value) if isinstance(value, tuple) else value, self.hint)
        except (ValueError, OverflowError) as error:
            raise self._mismatch(repr(value)) from error
        for item in value if isinstance(value, tuple) else (value,):
            if not isinstance(item, (int, float)):
                continue
            if isinstance(item, float) and not math.isfinite(item):
                raise ConfigError(f"{self.key}={item} must be finite ({self.help})")
            for sign, bound in self.bounds.items():
                if not _COMPARE[sign](item, bound):
                    raise ConfigError(f"{self.key}={item} must be {sign} {bound} ({self.help})")

    def _mismatch(self, shown: str) -> ConfigError:
        return ConfigError(f"{self.key}={shown} must be {_describe(self.hint)} ({self.help})")


def _alternatives(hint: Any) -> tuple[Any, bool]:
    """The type behind `hint`, and whether None may stand for it."""
    if isinstance(hint, types.UnionType):
        inner = [kind for kind in typing.get_args(hint) if kind is not types.NoneType]
        return inner[0], True
    return hint, False


def _item_hints(hint: Any, count: int) -> tuple[Any, ...]:
    """The types of `count` items of a tuple; ValueError where it takes another number."""
    kinds = typing.get_args(hint)
    if kinds[-1] is Ellipsis:
        if count == 0:
            raise ValueError
        return kinds[:1] * count
    if len(kinds) != count:
        raise ValueError
    return kinds


def _parse(text: str, hint: Any) -> Any:
    kind, optional = _alternatives(hint)
    if optional and text.lower() in _NONES:
        return None
    origin = typing.get_origin(kind)
    if origin is tuple:
        items = [item.strip() for item in text.strip("()[]").rstrip(",").split(",")]
        return tuple(map(_parse, items, _item_hints(kind, len(items))))
    if kind is bool:
        if text.lower() not in _BOOLEANS:
            raise ValueError
        return _BOOLEANS[text.lower()]
    return _convert(text if origin is Literal or kind is str else kind(text), kind)


def _convert(value: Any, hint: Any) -> Any:
    """`value`, of a type that JSON has, as `hint`; ValueError where it is none."""
    kind, optional = _alternatives(hint)
    if optional and value is None:
        return None
    origin = typing.get_origin(kind)
    if origin is tuple:
        if not isinstance(value, list):
            raise ValueError
        return tuple(map(_convert, value, _item_hints(kind, len(value))))
    if origin is Literal:
        valid = value in typing.get_args(kind)
    elif kind is float:
        valid = isinstance(value, (int, float)) and not isinstance(value, bool)
        value = float(value) if valid else value
    else:
        valid = type(value) is kind and value != ""
    if not valid:
        raise ValueError
    return value


def _describe(hint: Any) -> str:
    kind, optional = _alternatives(hint)
    if optional:
        return f"{_describe(kind)}, or none"
    origin = typing.get_origin(kind)
    if origin is Literal:
        return " or ".join(typing.get_args(kind))
    if origin is tuple:
        items = typing.get_args(kind)
        count = "one or more" if items[-1] is Ellipsis else str(len(items))
        return f"{count} items between commas, each {_describe(items[0])}"
    return _KINDS[kind]
