"""All proofs and measurements that want a GPU, one after the other: `make gpu`.

Every step runs in a process of its own and writes JSON to results/<adapter>/; one that fails is
reported at the end and does not keep the others from running. Kernels are proven first, and
trainings that take long come last. --software --tiny --minutes 0.1 runs all of it in minutes on a
software adapter, with shapes so small that its figures mean nothing: it shows that everything runs.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from _common import RESULTS, environment, print_table, usable_cores

from ebm_wgpu.gpu.adapters import select_adapter

HERE = Path(__file__).parent


FEW_SPLATS = ("--splats", "2000", "--dimension", "64", "--repeats", "1")
SMALL_MODEL = (
    "transformer.dim=32 transformer.n_layers=1 transformer.n_heads=2 transformer.max_length=32 "
    "data.block_size=32 data.eval_context=32 data.eval_stride=16 train.batch_size=2 "
    "train.eval_tokens=64 model.dim=32"
)


class Step(NamedTuple):
    """A command that writes one file.

    Attributes:
        name: of the step and its file.
        command: what to run.
        tiny: further arguments that make it small.
        long: whether it trains for the minutes given.
    """

    name: str
    command: tuple[str, ...]
    tiny: tuple[str, ...] = ()
    long: bool = False


def script(name: str, *arguments: str, tiny: Sequence[str] = (), long: bool = False) -> Step:
    return Step(name, (sys.executable, str(HERE / f"{name}.py"), *arguments), tuple(tiny), long)


def steps(minutes: float) -> list[Step]:
    """Everything there is to run."""
    ebm = str(Path(sys.executable).with_name("ebm"))
    modes = [word for mode in ("parity", "gradient", "speed") for word in ("--mode", mode)]
    presets = "wikitext-splat-gpu,wikitext-transformer-gpu"
    on_gpu, once = ("--device", "wgpu"), ("--repeats", "1")
    threads = ("--threads", str(usable_cores()))
    return [
        Step(
            "verify_kernels",
            (ebm, "verify-kernels", *modes, "--json"),
            ("--kernel", "rms_norm", "--kernel", "matmul"),
        ),
        script("dispatch", tiny=once),
        script("matmul", tiny=once),
        script("attention", tiny=once),
        script("training_step", tiny=("--presets", "transformer-small,nano", *once)),
        script("search", *on_gpu, tiny=FEW_SPLATS),
        script("hrm2", *on_gpu, tiny=("--cases", "clustered:3000:64", "--queries", "128", *once)),
        script("exact_draws", *on_gpu, tiny=FEW_SPLATS),
        script(
            *("langevin", *on_gpu),
            tiny=(
                *(*FEW_SPLATS, "--chains", "4", "--steps", "20", "--slow-steps", "2"),
                *("--original-steps", "0", "--agreement-chains", "20"),
            ),
        ),
        script(
            *("shakespeare", "--minutes", str(minutes / 2), *on_gpu, *threads),
            tiny=("--tokens", "256", "--overrides", SMALL_MODEL),
            long=True,
        ),
        script(
            *("wikitext", "--presets", presets, "--minutes", str(minutes), *on_gpu, *threads),
            tiny=("--tokens", "256", "--heldout", "256", "--overrides", SMALL_MODEL),
            long=True,
        ),
    ]


def run(step: Step, folder: Path, tiny: bool) -> dict[str, Any]:
    """Run a step; its name, seconds, exit status and file."""
    command = (*step.command, *step.tiny) if tiny else step.command
    path = folder / f"{step.name}.json"
    print(f"\n{step.name}", flush=True)
    start = time.perf_counter()
    if step.name == "verify_kernels":
        with path.open("w", encoding="utf-8") as output:
            done = subprocess.run(command, stdout=output, check=False)
    else:
        done = subprocess.run([*command, "--output", str(path)], check=False)
    return {
        "step": step.name,
        "seconds": time.perf_counter() - start,
        "exit status": done.returncode,
        "file": path.name,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="names of steps, with commas between")
    parser.add_argument("--minutes", type=float, default=60.0, help="of each long step's model")
    parser.add_argument("--tiny", action="store_true", help="shapes that show only that it runs")
    parser.add_argument("--folder", type=Path, help="where files go [results/<adapter>]")
    parser.add_argument("--no-long", action="store_true", help="leave out long trainings")
    parser.add_argument("--software", action="store_true", help="go on without a hardware GPU")
    arguments = parser.parse_args()
    adapter, _ = select_adapter()
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
    name = re.sub(r"[^a-z0-9]+", "-", adapter.name.lower()).strip("-")
    folder = arguments.folder or RESULTS / (f"{name}-tiny" if arguments.tiny else name)
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for step in known:
        if step.name in wanted and not (step.long and arguments.no_long):
            rows.append(run(step, folder, arguments.tiny))
            record = {"adapter": adapter.summary, "steps": rows, "environment": environment()}
            (folder / "steps.json").write_text(json.dumps(record, indent=2) + "\n")
    print_table(f"\n{adapter.summary}: {folder}", rows)
    return int(any(row["exit status"] for row in rows))


if __name__ == "__main__":
    raise SystemExit(main())
