"""Fuzz the loaders of every file of a run: each input gives a valid object or an error of ours.

    python tests/fuzz/fuzz.py --inputs 100000 --seed 0
    python tests/fuzz/fuzz.py --seed 0 --only splats.h5:1234      one input again, with a traceback

Inputs are loaded in child processes, so that a crash or a hang of a C library is one more result.
Prints counts and seeds as JSON; the exit status is 1 if any input failed.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from targets import TARGETS, Target, check

_BATCH = 1000
_HANG_SECONDS = 30.0
_MEMORY = 6 << 30
"""Most bytes of address space of a child: a file of kilobytes must not ask for more."""
_CONTEXT: Any = multiprocessing.get_context("fork")


def _input(target: Target, number: int, seed: int, index: int) -> str:
    """Make and load one input; what came of it."""
    target.write(np.random.default_rng([seed, number, index]))
    return check(target)


def _work(number: int, seed: int, indices: range, current: Any, results: Any) -> None:
    """Load some inputs of a target, reporting each failure; runs in a child."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    counts: Counter[str] = Counter()
    failures = []
    with tempfile.TemporaryDirectory() as folder:
        target = TARGETS[number](Path(folder))
        for index in indices:
            current.value = index
            try:
                counts[_input(target, number, seed, index)] += 1
            except Exception:
                counts["failed"] += 1
                failures.append((index, traceback.format_exc()))
                if len(failures) >= 20:
                    break
    results.send((counts, failures))


def fuzz_target(number: int, seed: int, count: int) -> tuple[Counter[str], list[tuple[int, str]]]:
    """Fuzz one target in child processes: how often what came out, and the failures."""
    totals: Counter[str] = Counter()
    failures: list[tuple[int, str]] = []
    pending = [range(at, min(at + _BATCH, count)) for at in reversed(range(0, count, _BATCH))]
    while pending and len(failures) < 20:
        indices = pending.pop()
        current = _CONTEXT.Value("q", indices.start)
        receive, send = _CONTEXT.Pipe(duplex=False)
        child = _CONTEXT.Process(target=_work, args=(number, seed, indices, current, send))
        child.start()
        send.close()
        result, reason = _watch(child, current, receive)
        if result is not None:
            counts, found = result
            totals += counts
            failures += found
        else:
            # What the child knew is lost: do the inputs around the one that killed it again.
            at = current.value
            failures.append((at, reason))
            totals["crashed"] += 1
            around = (range(at + 1, indices.stop), range(indices.start, at))
            pending += [part for part in around if part]
    return totals, sorted(failures)


def _watch(child: Any, current: Any, receive: Any) -> tuple[Any, str]:
    """What a child has found, or none and why it died."""
    seen, since = current.value, time.monotonic()
    while not receive.poll(0.5):
        if current.value != seen:
            seen, since = current.value, time.monotonic()
        elif time.monotonic() - since > _HANG_SECONDS:
            child.kill()
            child.join()
            return None, f"hung for {_HANG_SECONDS:.0f} seconds"
    try:
        return receive.recv(), ""
    # The pipe of a child that died has an end and nothing in it.
    except EOFError:
        child.join()
        return None, f"the process died with status {child.exitcode}"


def main() -> int:
    """Run the fuzzer."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--inputs", type=int, default=1500, help="in all, shared by the formats")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", metavar="FORMAT[:INDEX]", help="one format, or one input")
    options = parser.parse_args()
    torch.set_num_threads(1)
    only, _, index = (options.only or "").partition(":")
    if index:
        number = [kind.name for kind in TARGETS].index(only)
        with tempfile.TemporaryDirectory() as folder:
            print(_input(TARGETS[number](Path(folder)), number, options.seed, int(index)))
        return 0
    failed = 0
    report: dict[str, Any] = {"seed": options.seed, "inputs": 0, "formats": {}}
    for number, kind in enumerate(TARGETS):
        if only and kind.name != only:
            continue
        share = 1.0 if only else kind.share
        counts, failures = fuzz_target(number, options.seed, round(options.inputs * share))
        report["formats"][kind.name] = dict(sorted(counts.items()))
        report["inputs"] += counts.total()
        failed += len(failures)
        for at, reason in failures:
            print(f"{kind.name}:{at} seed {options.seed}\n{reason}", file=sys.stderr)
    report["failures"] = failed
    print(json.dumps(report, indent=1))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
