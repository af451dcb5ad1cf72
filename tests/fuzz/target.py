"""What a fuzzed loader is: a valid file, mutations of it, and a way to load them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

from numpy.random import Generator


class SilentDamage(Exception):
    """A file whose digest nobody renewed was read as something else than it was."""


class Target(ABC):
    """A loader under test.

    Attributes:
        name: of the format.
        share: of all inputs.
    """

    name: ClassVar[str]
    share: ClassVar[float]

    def __init__(self, folder: Path) -> None:
        """Make a valid file in `folder` and remember what it is."""
        self.folder = folder
        self.signed = False

    @abstractmethod
    def write(self, rng: Generator) -> None:
        """Write a mutated file; `signed` says whether its digests were renewed."""

    @abstractmethod
    def load(self) -> Any:
        """Load it; what comes back can be compared with what a valid file gives."""
