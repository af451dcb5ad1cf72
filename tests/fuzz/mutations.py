"""Seeded mutations of valid files: of bytes, and of the structure of JSON documents."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

from numpy.random import Generator

_INTERESTING = (b"\x00", b"\xff", b"\x00" * 8, b"\xff" * 8, b"\x7f" + b"\xff" * 7, b"\xed\xa0\x80")
_SCALARS: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2**31, 2**63, 2**64, -(2**63), 10**30, 10**400, 0.5, -0.0, 1e308,
    1e-320, math.nan, math.inf, -math.inf, "", " ", "0", "none", "\x00", "\ud800", "\ufffd",
    "a" * 300, "../../etc/passwd", "é", [], {}, [[]], [None], {"": None},
)  # fmt: skip


def mutate_bytes(data: bytes, rng: Generator) -> bytes:
    """One to four parts flipped, overwritten, inserted, deleted, moved, repeated or cut off."""
    content = bytearray(data)
    for _ in range(int(rng.integers(1, 5))):
        content = _BYTE_MUTATIONS[rng.integers(len(_BYTE_MUTATIONS))](content, rng)
    return bytes(content)


def mutate_json(document: Any, rng: Generator) -> Any:
    """`document` with one to three of its parts replaced, removed, renamed, repeated or nested."""
    for _ in range(int(rng.integers(1, 4))):
        document = _mutate_node(document, rng)
    return document


def dumps(document: Any) -> bytes:
    """JSON as a careless program may write it: NaN, lone surrogates and all."""
    return json.dumps(document, ensure_ascii=True).encode()


def mutate_json_text(data: bytes, rng: Generator) -> bytes:
    """The text of a JSON document, its structure mutated, its bytes, or both; at times a bomb."""
    kind = rng.random()
    if kind < 0.02:
        return _nested(int(rng.choice([10, 900, 5_000, 200_000])), rng)
    if kind < 0.04:
        return data[:-1] + b', "step": ' + b"9" * int(rng.choice([20, 400, 5_000])) + b"}"
    content = data
    if kind < 0.7:
        content = dumps(mutate_json(json.loads(data), rng))
    if kind > 0.6:
        content = mutate_bytes(content, rng)
    return content


def _nested(depth: int, rng: Generator) -> bytes:
    opening, closing = ((b"[", b"]"), (b'{"a":', b"}"))[rng.integers(2)]
    return opening * depth + b"0" + closing * depth * int(rng.integers(2))


def _place(content: bytearray, rng: Generator) -> int:
    # Headers lie at the beginning: half of all mutations do, too.
    limit = len(content) if rng.random() < 0.5 else min(len(content), 2048)
    return int(rng.integers(limit)) if limit else 0


def _part(content: bytearray, rng: Generator) -> bytes:
    start = _place(content, rng)
    return bytes(content[start : start + int(rng.integers(1, 65))])


def _flip(content: bytearray, rng: Generator) -> bytearray:
    if content:
        content[_place(content, rng)] ^= 1 << int(rng.integers(8))
    return content


def _overwrite(content: bytearray, rng: Generator) -> bytearray:
    start = _place(content, rng)
    value = _INTERESTING[rng.integers(len(_INTERESTING))]
    content[start : start + len(value)] = value
    return content


def _random(content: bytearray, rng: Generator) -> bytearray:
    start, value = _place(content, rng), rng.bytes(int(rng.integers(1, 17)))
    content[start : start + len(value)] = value
    return content


def _insert(content: bytearray, rng: Generator) -> bytearray:
    start = _place(content, rng)
    content[start:start] = rng.bytes(int(rng.integers(1, 9)))
    return content


def _delete(content: bytearray, rng: Generator) -> bytearray:
    start = _place(content, rng)
    del content[start : start + int(rng.integers(1, 65))]
    return content


def _splice(content: bytearray, rng: Generator) -> bytearray:
    part, start = _part(content, rng), _place(content, rng)
    content[start : start + len(part)] = part
    return content


def _repeat(content: bytearray, rng: Generator) -> bytearray:
    part, start = _part(content, rng), _place(content, rng)
    content[start:start] = part * int(rng.integers(1, 4))
    return content


def _truncate(content: bytearray, rng: Generator) -> bytearray:
    return content[: int(rng.integers(len(content) + 1))]


_BYTE_MUTATIONS: tuple[Callable[[bytearray, Generator], bytearray], ...] = (
    _flip, _flip, _flip, _overwrite, _random, _insert, _delete, _splice, _repeat, _truncate,
)  # fmt: skip


def _mutate_node(node: Any, rng: Generator) -> Any:
    """`node` with one change somewhere inside, or in its place."""
    inside = isinstance(node, (dict, list)) and len(node) > 0 and rng.random() < 0.85
    if not inside:
        return _replacement(node, rng)
    if isinstance(node, dict):
        return _mutate_object(dict(node), rng)
    index = int(rng.integers(len(node)))
    items = list(node)
    change = rng.random()
    if change < 0.6:
        items[index] = _mutate_node(items[index], rng)
    elif change < 0.7:
        del items[index]
    elif change < 0.8:
        items.insert(index, items[rng.integers(len(items))])
    elif change < 0.9:
        items[index], items[0] = items[0], items[index]
    else:
        items = items[:index]
    return items


def _mutate_object(node: dict[str, Any], rng: Generator) -> dict[str, Any]:
    key = sorted(node)[rng.integers(len(node))]
    other = sorted(node)[rng.integers(len(node))]
    change = rng.random()
    if change < 0.7:
        node[key] = _mutate_node(node[key], rng)
    elif change < 0.8:
        del node[key]
    elif change < 0.85:
        node[f"{key}{rng.choice(['x', '', ' ', '.', 'é'])}"] = node.pop(key)
    elif change < 0.95:
        node[key], node[other] = node[other], node[key]
    else:
        node["unknown"] = _SCALARS[rng.integers(len(_SCALARS))]
    return node


def _replacement(node: Any, rng: Generator) -> Any:
    change = rng.random()
    if isinstance(node, bool) or change < 0.5:
        return _SCALARS[rng.integers(len(_SCALARS))]
    if isinstance(node, (int, float)) and abs(node) < 1e300:
        return [node + 1, -node, node * 1000, node / 3, [node], str(node)][rng.integers(6)]
    if isinstance(node, str) and node:
        at = int(rng.integers(len(node)))
        return [node[:at], node + node, node[:at] + chr(int(rng.integers(0xD7FF))) + node[at:]][
            rng.integers(3)
        ]
    return [node, [node], {"a": node}][rng.integers(3)]
