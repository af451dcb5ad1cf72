"""Functions of kernels whose keywords follow from a table."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any


class ByKeyword:
    """A function whose keywords are given as a list, as kernels want to see them."""

    def __init__(self, function: Callable[..., Any], names: tuple[str, ...]) -> None:
        self._function = function
        kind = inspect.Parameter.KEYWORD_ONLY
        self.__signature__ = inspect.Signature([inspect.Parameter(n, kind) for n in names])

    def __call__(self, **values: Any) -> Any:
        return self._function(values)
