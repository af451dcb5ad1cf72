"""What every benchmark shares: the record of where it ran, timing, the table and the JSON file."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.console import Console, JustifyMethod
from rich.table import Table

from ebm_wgpu.files import finite_numbers

RESULTS = Path(__file__).parent / "results"
SMALL_SETTING = (
    "small: a software adapter ran this on the processor; the figures show that all of it works, "
    "and say nothing of a GPU's speed"
)
"""The setting that benchmarks of wgpu alone take, and name, without a hardware adapter."""
FULL_SETTING = "full"
_PACKAGES = (
    "ebm-wgpu",
    "numpy",
    "scipy",
    "numba",
    "wgpu",
    "torch",
    "faiss-cpu",
    "ebm-splats",
)


@dataclass(frozen=True)
class Claim:
    """A statement that a benchmark proves or refutes.

    Attributes:
        what: the statement.
        measured: the figure measured.
        target: the figure asked for.
        unit: of both.
        at_most: whether the target is an upper bound; otherwise it is a lower one.
    """

    what: str
    measured: float
    target: float
    unit: str = ""
    at_most: bool = False

    @property
    def holds(self) -> bool:
        """Whether the measured figure reaches the target."""
        if self.at_most:
            return self.measured <= self.target
        return self.measured >= self.target


def parse_arguments(name: str, description: str | None, **options: Any) -> argparse.Namespace:
    """Command-line arguments: --output and one option for each keyword.

    Args:
        name: of the benchmark; the default output is results/<name>.json beside the scripts.
        description: what the benchmark measures, its module's docstring.
        **options: default by name; the type of the option is the type of its default.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=RESULTS / f"{name}.json", metavar="PATH")
    for option, default in options.items():
        flag = "--" + option.replace("_", "-")
        parser.add_argument(flag, type=type(default), default=default, help=" ")
    return parser.parse_args()


def seconds(function: Callable[[], object]) -> float:
    """Wall-clock seconds of one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def compare_seconds(
    contenders: Mapping[str, Callable[[], object]], repeats: int = 7
) -> dict[str, list[float]]:
    """Times of each contender in turn, `repeats` rounds after one that does not count.

    Taking turns lets a disturbance hit all contenders alike, so that ratios of medians stay fair.
    """
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for round_ in range(repeats + 1):
        for name, function in contenders.items():
            elapsed = seconds(function)
            if round_:
                times[name].append(elapsed)
    return times


def median(values: Sequence[float]) -> float:
    """Middle value."""
    return statistics.median(values)


def usable_cores() -> int:
    """Processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def hardware_name(device: Any, threads: int) -> str:
    """What did the work, in a few words: the adapter of a device of wgpu, else the processor."""
    if device.name == "numba":
        return f"{threads} threads, {processor_name()}"
    return str(device.description)


def processor_name() -> str:
    """The processor, as the system calls it."""
    return _first_line("/proc/cpuinfo", "model name") or platform.processor()


def _first_line(path: str, key: str) -> str:
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError:
        return ""
    return next(
        (line.partition(":")[2].strip() for line in text.splitlines() if line.startswith(key)), ""
    )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git(*arguments: str) -> str:
    try:
        result = subprocess.run(
            ["git", *arguments],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return result.stdout.strip()


_SOURCES = (":/", ":!results", ":!leaderboard.json", ":!LEADERBOARD.md")
"""What figures depend on, from this folder: everything but what benchmarks write."""


def environment(*devices: Any) -> dict[str, Any]:
    """Where a measurement was made: hardware, software, commit, time and load.

    Args:
        *devices: kernel devices used; their descriptions are recorded.
    """
    return {
        "hardware": {
            "processor": processor_name(),
            "cores": usable_cores(),
            "memory": _first_line("/proc/meminfo", "MemTotal"),
            "load_1min": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
            "devices": [device.description for device in devices],
        },
        "versions": {
            "python": platform.python_version(),
            "system": platform.platform(),
            **{p: found for p in _PACKAGES if (found := _version(p)) is not None},
        },
        "threads": {
            name: os.environ[name]
            for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
            if name in os.environ
        },
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted_changes": bool(
            _git("status", "--porcelain", "--untracked-files=no", "--", *_SOURCES)
        ),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python", *sys.argv]),
    }


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def print_table(title: str, rows: Sequence[Mapping[str, object]]) -> None:
    """Print rows of equal keys as a table; floats with four significant digits."""
    table = Table()
    for index, column in enumerate(rows[0]):
        justify: JustifyMethod = "right" if index else "left"
        table.add_column(column, justify=justify, no_wrap=index == 0, overflow="fold")
    for row in rows:
        table.add_row(*(_cell(value) for value in row.values()))
    print(title)
    Console(width=None if sys.stdout.isatty() else 120).print(table)


def write_result(
    name: str,
    payload: Mapping[str, Any],
    *devices: Any,
    claims: Sequence[Claim] = (),
    output: Path | None = None,
) -> Path:
    """Write results/<name>.json: the payload, the claims and the environment. Prints the claims.

    Numbers that JSON does not have, NaN and the infinities, become null.

    Args:
        name: of the benchmark.
        payload: figures, with the shapes and settings they belong to; anything JSON takes.
        *devices: kernel devices used.
        claims: statements with their measured figures.
        output: another path than results/<name>.json.
    """
    path = RESULTS / f"{name}.json" if output is None else output
    record = {
        "benchmark": name,
        **payload,
        "claims": [{**asdict(claim), "holds": claim.holds} for claim in claims],
        "environment": environment(*devices),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(finite_numbers(record), indent=2, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")
    for claim in claims:
        relation = "at most" if claim.at_most else "at least"
        print(
            f"{'holds' if claim.holds else 'MISSED'}: {claim.what}: {claim.measured:.4g}"
            f"{claim.unit and ' ' + claim.unit} ({relation} {claim.target:g} asked)"
        )
    print(f"written: {path}")
    return path
