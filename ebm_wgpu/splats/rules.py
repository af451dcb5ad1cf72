"""Rules over splats: "usage < 1e-6 and age > 100" as a mask, without running any code of the text.

A rule is an expression of Python's grammar in which only these have a meaning:

    names        those of `FIELDS`
    numbers      12, 0.5, 1e-6
    operators    + - * /   < <= > >= == != (may be chained)   and or not   and parentheses
    functions    min(f) max(f) mean(f) median(f) over all splats, quantile(f, q), log(f), abs(f)

Anything else, such as an attribute, an index, another call or a text, is refused before any of the
rule is computed.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ebm_wgpu.errors import ConfigError
from ebm_wgpu.splats.store import SplatColumns

LONGEST_RULE = 1000

FIELDS: Mapping[str, Callable[[SplatColumns], NDArray[Any]]] = MappingProxyType(
    {
        "index": lambda columns: np.arange(len(columns)),
        "token": lambda columns: columns.sid,
        "alpha": lambda columns: columns.alpha.astype(np.float64),
        "weight": lambda columns: np.exp(columns.log_pi),
        "kappa": lambda columns: columns.kappa.astype(np.float64),
        "usage": lambda columns: columns.frequency,
        "age": lambda columns: columns.age,
    }
)
"""Names that a rule may use: index in the file, token id, alpha, weight = alpha / sum(alpha),
kappa, usage frequency, and age."""

_OPERATORS: Mapping[type[ast.AST], Callable[..., Any]] = MappingProxyType(
    {
        ast.Add: np.add,
        ast.Sub: np.subtract,
        ast.Mult: np.multiply,
        ast.Div: np.divide,
        ast.Lt: np.less,
        ast.LtE: np.less_equal,
        ast.Gt: np.greater,
        ast.GtE: np.greater_equal,
        ast.Eq: np.equal,
        ast.NotEq: np.not_equal,
        ast.USub: np.negative,
        ast.UAdd: np.positive,
        ast.Not: np.logical_not,
        ast.And: np.logical_and,
        ast.Or: np.logical_or,
    }
)
_FUNCTIONS: Mapping[str, tuple[int, Callable[..., Any]]] = MappingProxyType(
    {
        "min": (1, np.min),
        "max": (1, np.max),
        "mean": (1, np.mean),
        "median": (1, np.median),
        "quantile": (2, lambda values, order: np.quantile(values, order)),
        "log": (1, np.log),
        "abs": (1, np.abs),
    }
)


def select(rule: str, columns: SplatColumns) -> NDArray[np.bool_]:
    """The splats for which a rule holds, (N,).

    Raises:
        ConfigError: the rule is no expression of the kind described above, or gives no truth value;
            the message names the part at fault.
    """
    if len(rule) > LONGEST_RULE:
        raise ConfigError(f"a rule of {len(rule)} characters: use at most {LONGEST_RULE}")
    try:
        tree = ast.parse(rule.strip(), mode="eval").body
        with np.errstate(all="ignore"):
            value = _Evaluation(rule.strip(), columns).value(tree)
    except SyntaxError as error:
        raise ConfigError(
            f"rule {rule!r} is no expression at character {error.offset}: write something like "
            "usage < 1e-6 and age > 100"
        ) from error
    except (RecursionError, MemoryError, ValueError, OverflowError) as error:
        raise ConfigError(f"rule {rule!r} cannot be computed ({error}): make it simpler") from error
    if np.asarray(value).dtype != np.bool_:
        raise ConfigError(f"rule {rule!r} gives a number: compare it with something, such as > 0")
    return np.array(np.broadcast_to(value, (len(columns),)))


class _Evaluation:
    """Computes one rule over one set of splats; every node is checked before it is computed."""

    def __init__(self, rule: str, columns: SplatColumns) -> None:
        self._rule, self._columns = rule, columns

    def value(self, node: ast.AST) -> Any:
        match node:
            case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
                return np.float64(number)
            case ast.Name(id=name) if name in FIELDS:
                return FIELDS[name](self._columns)
            case ast.Name(id=name):
                raise ConfigError(
                    f"rule {self._rule!r}: no field {name!r}: use {', '.join(FIELDS)}"
                )
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
                return _OPERATORS[type(op)](self._number(left), self._number(right))
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return np.logical_not(self._truth(operand))
            case ast.UnaryOp(op=op, operand=operand) if type(op) in _OPERATORS:
                return _OPERATORS[type(op)](self._number(operand))
            case ast.BoolOp(op=op, values=values):
                result = self._truth(values[0])
                for other in values[1:]:
                    result = _OPERATORS[type(op)](result, self._truth(other))
                return result
            case ast.Compare(left=left, ops=ops, comparators=others) if all(
                type(op) in _OPERATORS for op in ops
            ):
                terms = [self._number(term) for term in (left, *others)]
                result = np.True_
                for compare, one, other in zip(ops, terms, terms[1:], strict=False):
                    result = np.logical_and(result, _OPERATORS[type(compare)](one, other))
                return result
            case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if (
                name in _FUNCTIONS and len(arguments) == _FUNCTIONS[name][0]
            ):
                return _FUNCTIONS[name][1](*(self._number(part) for part in arguments))
        raise ConfigError(
            f"rule {self._rule!r}: {self._text(node)!r} has no meaning in a rule: use fields "
            f"({', '.join(FIELDS)}), numbers, + - * /, comparisons, and, or, not, and "
            f"{', '.join(_FUNCTIONS)}"
        )

    def _number(self, node: ast.AST) -> Any:
        value = self.value(node)
        if np.asarray(value).dtype == np.bool_:
            raise ConfigError(
                f"rule {self._rule!r}: {self._text(node)!r} is true or false, not a number: join "
                "such parts with and, or, not"
            )
        return value

    def _truth(self, node: ast.AST) -> Any:
        value = self.value(node)
        if np.asarray(value).dtype != np.bool_:
            raise ConfigError(
                f"rule {self._rule!r}: {self._text(node)!r} is a number: compare it with "
                "something, such as > 0"
            )
        return value

    def _text(self, node: ast.AST) -> str:
        return ast.get_source_segment(self._rule, node) or type(node).__name__
