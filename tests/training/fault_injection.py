"""Break runs at every point where they write, and show that none is lost or silently wrong.

    python fault_injection.py FOLDER COUNT SEED

A run trains, checkpoints and exports its splats in a child process that passes through points:
every open for writing, write, sync, rename, folder made, and deletion, and every dataset and end of
an HDF5 file. Each of COUNT faults picks, from SEED and its number, a point and what happens there:

    kill        SIGKILL before it, resumed and killed again
    torn        half of a write, then SIGKILL
    power cut   SIGKILL, and whatever was not synced is cut short at random
    full        ENOSPC there and at every later point    I/O error EIO there, once
    read-only   EROFS there and at every later point
    flip, cut, delete: a random bit, end or file of the run after a kill, at rest

Then the run is resumed without faults. After the first six it must end as the undisturbed run
did, bit for bit: weights, optimisers, random states, metrics, history and export; and an error on
the way must have been one of `EbmError`. After damage at rest it must end the same way, or stop
with an `EbmError` that names the damaged file, or have noted its loss in train.log; a checkpoint
that resuming does not read must be refused when it is loaded. Prints a table and exits with 1 if
any fault had another outcome.
"""

from __future__ import annotations

import collections
import importlib
import json
import os
import re
import shutil
import sys
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fault_points import Faults

from ebm_wgpu.config import (
    Config,
    DataConfig,
    EnergyConfig,
    ModelConfig,
    SamplerConfig,
    TrainConfig,
    TransformerConfig,
)
from ebm_wgpu.errors import CheckpointError, EbmError
from ebm_wgpu.kernels import open_device
from ebm_wgpu.splats.export import export_splats
from ebm_wgpu.splats.splat_file import SplatFile
from ebm_wgpu.splats.store import SplatStore
from ebm_wgpu.training.checkpoints import SPLATS_FILE, read_checkpoint
from ebm_wgpu.training.run_folder import RunFolder
from ebm_wgpu.training.trainer import Trainer

ENDED, FAILED, DEFECT = 0, 3, 4
AT_POINTS = ("kill", "torn", "power cut", "full", "I/O error", "read-only")
AT_REST = ("flip", "cut", "delete")
VOLATILE = ("elapsed", "tokens_per_second", "memory", "disk")
EXPORTS = (".export.h5", ".export.npz")


def configuration(corpus: Path, family: str) -> Config:
    """A run of a few steps that writes everything a run can write."""
    return Config(
        data=DataConfig(
            dataset=str(corpus), tokenizer="char", block_size=8, eval_context=8, eval_stride=8
        ),
        model=ModelConfig(
            family="splat" if family == "splat" else "transformer",
            dim=8,
            n_splats=24,
            recent_window=4,
            decay_window=8,
            attention_window=8,
            n_experts=1,
            n_active=1,
            expert_hidden=8,
        ),
        energy=EnergyConfig(n_neighbours=4),
        sampler=SamplerConfig(list_size=4),
        transformer=TransformerConfig(dim=8, n_layers=1, n_heads=1, max_length=8),
        train=TrainConfig(
            seed=1,
            device="numba",
            steps=5,
            warmup_steps=1,
            batch_size=2,
            accumulation=2,
            lr=0.01,
            dsm_weight=0.1 if family == "splat" else 0,
            ema_decay=None if family == "splat" else 0.9,
            eval_every=2,
            eval_tokens=16,
            checkpoint_every=2,
            keep_last=1,
            log_every=1,
        ),
    ).validate()


def work(config: Config, folder: Path) -> None:
    """Train, or go on training, and export the splats."""
    run = RunFolder(folder)
    Trainer(config, folder, open_device("numba"), resume=run.exists()).train()
    best = run.checkpoint_path("best")
    if (best / SPLATS_FILE).exists():
        SplatStore.load(best / SPLATS_FILE).save(folder / EXPORTS[0])
        with SplatFile(best / SPLATS_FILE) as splats:
            export_splats(splats, folder / EXPORTS[1])


def in_child(config: Config, folder: Path, faults: Faults) -> tuple[int, str]:
    """Work in a child process: how it ended (its status, or minus a signal), and what it said."""
    reader, writer = os.pipe()
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        status, said = DEFECT, ""
        try:
            faults.install()
            work(config, folder)
            status, said = ENDED, "\n".join(faults.points)
        except EbmError as error:
            status, said = FAILED, str(error)
        except BaseException:
            said = traceback.format_exc()
        finally:
            os.write(writer, said.encode())
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        said = pipe.read().decode()
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), said


def essence(folder: Path, damaged: Path | None = None) -> dict[str, Any]:
    """Everything a run ends with that must not depend on what happened to it."""
    run = RunFolder(folder)
    found: dict[str, Any] = {
        "metrics": _steady(run.read_metrics()),
        "history": _steady(json.loads(run.history_path.read_text())["evaluations"]),
        "steps": run.steps(),
        "pointers": (run.pointer("last"), run.pointer("best")),
        "config": (folder / "config.json").read_bytes(),
        "tokenizer": (folder / "tokenizer.json").read_bytes(),
        "leftovers": [path.name for path in folder.rglob(".tmp*")],
    }
    exports = [folder / name for name in EXPORTS]
    found["exports"] = [path.read_bytes() for path in exports if path.exists()]
    for step in run.steps():
        path = run.checkpoint_path(step)
        try:
            checkpoint = read_checkpoint(path)
        except CheckpointError:
            if damaged is None or path not in damaged.parents:
                raise
            found[f"checkpoint {step}"] = "refused"
            continue
        state = checkpoint.trainer_state()
        state["progress"].pop("elapsed")
        state["progress"]["logged"].pop("seconds", None)
        # Of lines that hold times and memory.
        state.pop("metrics")
        splats = checkpoint.path / SPLATS_FILE
        found[f"checkpoint {step}"] = (
            splats.read_bytes() if splats.exists() else b"",
            _flat(dict(checkpoint.weights)),
            _flat(state),
        )
    return found


def _steady(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    volatile = (*VOLATILE, "seconds")
    return [{k: v for k, v in record.items() if k not in volatile} for record in records]


def _flat(state: Any) -> list[Any]:
    if isinstance(state, dict):
        return [item for key in sorted(state, key=str) for item in (key, *_flat(state[key]))]
    if isinstance(state, list | tuple):
        return [item for value in state for item in _flat(value)]
    return [state.numpy().tobytes() if isinstance(state, torch.Tensor) else state]


def damage(folder: Path, kind: str, rng: np.random.Generator) -> Path:
    """Flip a bit of, cut or delete a random file of a run; which one."""
    unread = ("train.log", "run.lock", *EXPORTS)
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name not in unread)
    file = files[int(rng.integers(len(files)))]
    content = bytearray(file.read_bytes())
    if kind == "delete":
        file.unlink()
    elif kind == "cut":
        file.write_bytes(content[: int(rng.integers(max(len(content), 1)))])
    elif content:
        content[int(rng.integers(len(content)))] ^= 1 << int(rng.integers(8))
        file.write_bytes(content)
    return file


class Suite:
    """Faults against runs of one configuration."""

    def __init__(self, config: Config, folder: Path) -> None:
        self.config, self.folder = config, folder
        whole = folder / "whole"
        # In this process: what is compiled or imported on the way is there for all children.
        work(config, whole)
        counted = folder / "counted"
        status, said = in_child(config, counted, Faults(counted))
        if status != ENDED:
            sys.exit(f"the run without faults failed: {said}")
        self.points = said.splitlines()
        # A checkpoint is hundreds of writes and one rename: every kind of point has its turn.
        self._alike: dict[str, list[int]] = {}
        for number, point in enumerate(self.points):
            self._alike.setdefault(re.sub(r"[.][0-9a-f]{12}$", "", point), []).append(number)
        self.expected = essence(whole)
        if essence(counted) != self.expected:
            sys.exit("two runs without faults differ")

    @property
    def kinds(self) -> int:
        """Number of kinds of points."""
        return len(self._alike)

    def inject(self, number: int, seed: int) -> tuple[str, str, str]:
        """Fault `number`: its kind, its outcome, and what was wrong with it, if anything."""
        rng = np.random.default_rng([seed, number])
        kinds = (*AT_POINTS, *AT_REST)
        kind = kinds[number % len(kinds)]
        run = self.folder / "run"
        shutil.rmtree(run, ignore_errors=True)
        at_rest = kind in AT_REST
        if at_rest:
            # A run that has come far has more to damage.
            target = int(rng.integers(len(self.points) // 3, len(self.points)))
        else:
            alike = list(self._alike.values())[int(rng.integers(len(self._alike)))]
            target = alike[int(rng.integers(len(alike)))]
        faults = Faults(run, "kill" if at_rest else kind, target, int(rng.integers(1 << 30)))
        status, said = in_child(self.config, run, faults)
        if kind == "kill":
            # A machine that fails once may fail again, while the run is being resumed too.
            again = Faults(run, kind, int(rng.integers(len(self.points) // 2)))
            in_child(self.config, run, again)
        where = f"fault {number} of seed {seed}: {kind} at {self.points[target]!r}"
        if status == DEFECT:
            return kind, "DEFECT", f"{where}: {said}"
        if "\n" in said and status == FAILED:
            return kind, "LONG ERROR", f"{where}: {said}"
        damaged = damage(run, kind, rng) if at_rest and any(run.rglob("*.json*")) else None
        status, said = in_child(self.config, run, Faults(run))
        where = f"{where}, {damaged}" if damaged else where
        if status == FAILED and damaged is not None and str(damaged) in said:
            return kind, "refused by name", ""
        if status != ENDED:
            return kind, "NOT RESUMED", f"{where}: status {status}, {said}"
        if damaged is not None and f"{damaged.name} is missing" in (run / "train.log").read_text():
            return kind, "loss noted", ""
        found = essence(run, damaged)
        wrong = [k for k in self.expected if found.get(k) not in (self.expected[k], "refused")]
        if wrong:
            return kind, "DIFFERENT", f"{where}: {', '.join(wrong)}"
        return kind, "same bits", ""


def main() -> None:
    folder, count, seed = Path(sys.argv[1]).resolve(), int(sys.argv[2]), int(sys.argv[3])
    importlib.import_module("torch._dynamo")
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    corpus = folder / "corpus.txt"
    words = ("the", "cat", "sat", "on", "a", "mat", "while", "dogs", "ran", "to", "one", "hill")
    lines = (" ".join(words[(i * i + j) % len(words)] for j in range(6)) for i in range(60))
    corpus.write_text("\n".join(lines) + "\n")
    suites = []
    for family in ("splat", "transformer"):
        (folder / family).mkdir(exist_ok=True)
        suites.append(Suite(configuration(corpus, family), folder / family))
        print(f"{family}: {len(suites[-1].points)} points of {suites[-1].kinds} kinds", flush=True)
    outcomes: collections.Counter[tuple[str, str]] = collections.Counter()
    wrong = []
    for number in range(count):
        kind, outcome, problem = suites[number // 9 % 2].inject(number, seed)
        outcomes[kind, outcome] += 1
        if problem:
            wrong.append(problem)
            print(problem, flush=True)
    for (kind, outcome), times in sorted(outcomes.items()):
        print(f"{times:5} {kind:10} {outcome}")
    print(f"{count} faults of seed {seed}, {len(wrong)} with a wrong outcome")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
