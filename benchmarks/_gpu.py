"""All proofs and measurements that want a GPU, one after the other: `make gpu`.

Every step runs in a process of its own and writes JSON to results/<adapter>/; one that fails is
reported at the end and does not keep the others from running. Kernels are proven first, and
trainings that take long come last.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from _common import RESULTS, environment, print_table

from ebm_wgpu.gpu.adapters import list_adapters

HERE = Path(__file__).parent


class Step(NamedTuple):
    """A command that writes one file; `long` ones train for the minutes given."""

    name: str
    command: tuple[str, ...]
    long: bool = False


def script(name: str, *arguments: str, long: bool = False) -> Step:
    return Step(name, (sys.executable, str(HERE / f"{name}.py"), *arguments), long)


def steps(minutes: float) -> list[Step]:
    """Everything there is to run."""
    ebm = str(Path(sys.executable).with_name("ebm"))
    modes = [word for mode in ("parity", "gradient", "speed") for word in ("--mode", mode)]
    presets = "wikitext-splat-gpu,wikitext-transformer-gpu"
    return [
        Step("verify_kernels", (ebm, "verify-kernels", *modes, "--json")),
        script("dispatch"),
        script("matmul"),
        script("attention"),
        script("training_step"),
        script("search", "--device", "wgpu"),
        script("exact_draws", "--device", "wgpu"),
        script("langevin", "--device", "wgpu"),
        script("char_lm", "--seconds", str(60 * minutes / 6), long=True),
        script(
            *("wikitext", "--presets", presets, "--minutes", str(minutes), "--device", "wgpu"),
            long=True,
        ),
    ]


def run(step: Step, folder: Path) -> dict[str, Any]:
    """Run a step; its name, seconds, exit status and file."""
    path = folder / f"{step.name}.json"
    print(f"\n{step.name}", flush=True)
    start = time.perf_counter()
    if step.name == "verify_kernels":
        with path.open("w", encoding="utf-8") as output:
            done = subprocess.run(step.command, stdout=output, check=False)
    else:
        done = subprocess.run([*step.command, "--output", str(path)], check=False)
    return {
        "step": step.name,
        "seconds": time.perf_counter() - start,
        "exit status": done.returncode,
        "file": path.name,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="names of steps, with commas between")
    parser.add_argument("--minutes", type=float, default=60.0, help="of each long training")
    parser.add_argument("--no-long", action="store_true", help="leave out long trainings")
    parser.add_argument("--software", action="store_true", help="go on without a hardware GPU")
    arguments = parser.parse_args()
    adapter = list_adapters()[0]
    if adapter.is_software and not arguments.software:
        print(f"no hardware GPU: the best adapter is {adapter.summary}; --software goes on")
        return 1
    known = steps(arguments.minutes)
    names = [step.name for step in known]
    wanted = arguments.only.split(",") if arguments.only else names
    unknown = set(wanted).difference(names)
    if unknown:
        print(f"no step is called {min(unknown)}; there are {', '.join(names)}")
        return 2
    folder = RESULTS / re.sub(r"[^a-z0-9]+", "-", adapter.name.lower()).strip("-")
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for step in known:
        if step.name in wanted and not (step.long and arguments.no_long):
            rows.append(run(step, folder))
            record = {"adapter": adapter.summary, "steps": rows, "environment": environment()}
            (folder / "steps.json").write_text(json.dumps(record, indent=2) + "\n")
    print_table(f"\n{adapter.summary}: {folder}", rows)
    return int(any(row["exit status"] for row in rows))


if __name__ == "__main__":
    raise SystemExit(main())
