"""A run broken at any point where it writes loses nothing, and no damage stays unseen."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/fd").is_dir(), reason="the faults need forks and /proc, which Linux has"
)


def inject(folder: Path, count: int, seed: int) -> str:
    """What the script says about `count` faults; it must find nothing wrong."""
    script = Path(__file__).with_name("fault_injection.py")
    # Children are forked: no thread pool may have started, and sums must split the same way.
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "NUMBA_NUM_THREADS": "1",
        "NUMBA_THREADING_LAYER": "workqueue",
    }
    done = subprocess.run(
        [sys.executable, str(script), str(folder), str(count), str(seed)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    print(done.stdout)
    return done.stdout


def check(report: str, count: int, seed: int) -> None:
    """The table adds up, and has every kind of fault."""
    rows = re.findall(r"^ *(\d+) (\S.*?)  +(same bits|refused by name|loss noted)$", report, re.M)
    rows += re.findall(r"^ *(\d+) (power cut|I/O error|read-only) (same bits)$", report, re.M)
    counted = {(kind, outcome): int(times) for times, kind, outcome in rows}
    assert sum(counted.values()) == count, report
    kinds = {"kill", "torn", "power cut", "full", "I/O error", "read-only", "flip", "cut", "delete"}
    assert {kind for kind, _ in counted} == kinds
    # Only damage at rest may end in anything but the same bits.
    refused = {kind for kind, outcome in counted if outcome != "same bits"}
    assert refused <= {"flip", "cut", "delete"}
    assert f"{count} faults of seed {seed}, 0 with a wrong outcome" in report


def test_a_few_faults_lose_nothing(tmp_path: Path) -> None:
    check(inject(tmp_path, 9, 0), 9, 0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_three_hundred_faults_lose_nothing(tmp_path: Path, seed: int) -> None:
    """About two minutes a seed: pytest -m slow -s tests/training/test_fault_injection.py"""
    check(inject(tmp_path, 108, seed), 108, seed)
