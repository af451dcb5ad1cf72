"""Benchmarks: their options, the plan of the GPU script, and what decides their figures."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from ebm_wgpu.cli import main as cli
from ebm_wgpu.config import apply_overrides
from ebm_wgpu.presets import preset

FOLDER = Path(__file__).parents[1] / "benchmarks"
SCRIPTS = sorted(path.stem for path in FOLDER.glob("[!_]*.py"))
STEPS = (
    *("verify_kernels", "dispatch", "matmul", "attention", "training_step", "search", "hrm2"),
    *("exact_draws", "langevin", "shakespeare", "wikitext"),
)


@pytest.fixture(autouse=True)
def scripts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The scripts can be imported by their names, which mean nothing again afterwards."""
    monkeypatch.syspath_prepend(str(FOLDER))
    before = set(sys.modules)
    yield
    for name in {path.stem for path in FOLDER.glob("*.py")}.difference(before):
        sys.modules.pop(name, None)


def imported(name: str) -> ModuleType:
    return importlib.import_module(name)


def help_of(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--help"])
    with pytest.raises(SystemExit) as ended:
        imported(name).main()
    assert ended.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_script_says_what_it_measures_and_takes(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = help_of(name, monkeypatch, capsys)
    assert "--output PATH" in text
    first = (imported(name).__doc__ or "").split(".")[0]
    assert " ".join(first.split())[:40] in " ".join(text.split())


def options(words: tuple[str, ...]) -> dict[str, str]:
    """The last value of each option of a command, as a parser takes it."""
    places = [place for place, word in enumerate(words) if word.startswith("--")]
    return {words[p]: words[p + 1] if p + 1 < len(words) else "" for p in places}


def test_the_plan_of_the_gpu_script_can_be_carried_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = imported("_gpu").steps(60.0)
    assert tuple(step.name for step in plan) == STEPS
    assert {step.name for step in plan if step.long} == {"shakespeare", "wikitext"}
    command = cli.get_command(None, "verify-kernels")  # type: ignore[arg-type]
    assert command is not None
    known = {option for parameter in command.params for option in parameter.opts}
    for step in plan:
        given = options((*step.command, *step.tiny))
        if step.name == "verify_kernels":
            assert known.issuperset(given)
            continue
        assert step.command[1] == str(FOLDER / f"{step.name}.py")
        text = help_of(step.name, monkeypatch, capsys)
        assert all(f"{option} " in text for option in given), step
        if step.name in ("dispatch", "matmul", "attention", "training_step"):
            continue
        assert given["--device"] == "wgpu"
        names = given.get("--presets", imported("shakespeare").PRESETS)
        for name in names.split(",") if step.long else ():
            config = apply_overrides(preset(name), given["--overrides"].split())
            assert config.transformer.dim == 32


def test_both_shakespeare_presets_are_judged_as_trained() -> None:
    module = imported("shakespeare")
    plain, nano = module.PRESETS.split(",")
    rows = [
        {"preset": plain, "predicts by": "System 1", "loss, blocks": 1.46},
        {"preset": nano, "predicts by": "System 2", "loss, blocks": 1.48},
        {"preset": nano, "predicts by": "System 1", "loss, blocks": 1.45},
    ]
    found = {claim.what: claim for claim in module.claims(rows)}
    assert found[f"{plain}, validation loss"].holds
    assert not found[f"{nano}, validation loss"].holds
    assert found[f"{nano}, validation loss"].measured == 1.48
    assert not found[f"{nano}, System 2 minus System 1 of the same weights"].holds
    assert len(found) == 3


_TRAINING = """
import pathlib, signal, sys, time
if "--fail" in sys.argv:
    raise SystemExit(3)
run, resumed = pathlib.Path(sys.argv[sys.argv.index("--run") + 1]), "--resume" in sys.argv
signal.signal(signal.SIGINT, lambda *_: sys.exit(130))
with (run.parent / "turns.txt").open("a") as file:
    print(run.name, "goes on" if resumed else "starts", file=file)
while not resumed:
    time.sleep(0.01)
"""


def test_trainings_take_turns_until_each_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = imported("_training")
    training = (sys.executable, "-S", "-c", _TRAINING)
    monkeypatch.setattr(module, "EBM_TRAIN", training)
    commands = {tmp_path / name: [*training, "--run", str(tmp_path / name)] for name in "abc"}
    module.train_in_turns(commands, turn=2.5 / 60, threads=1)
    turns = (tmp_path / "turns.txt").read_text().splitlines()
    assert turns == ["a starts", "b starts", "c starts", "a goes on", "b goes on", "c goes on"]
    with pytest.raises(subprocess.CalledProcessError, match="status 3"):
        module.train_in_turns({tmp_path: [*training, "--fail"]}, turn=1.0, threads=1)


class Findable:
    """An index that finds the first `effort` of each query's neighbours."""

    ntotal = 1000

    def search(self, queries: np.ndarray, k: int, params: int) -> tuple[np.ndarray, np.ndarray]:
        found = np.where(np.arange(k) < params - queries[:, :1], np.arange(k), -1)
        return np.zeros_like(found), found


@pytest.mark.parametrize("first", [1, 64, 300])
def test_indexes_are_set_to_the_least_effort_whose_recall_is_sure(first: int) -> None:
    module = imported("hrm2")
    rng = np.random.default_rng(0)
    queries, k = rng.integers(0, 100, (50, 1)), 100
    expected = np.tile(np.arange(k), (len(queries), 1))
    contender = module.FaissContender(Findable(), lambda effort: effort, None, 0)
    contender.effort = first
    contender.tune(queries, expected, 1000)

    def lower_end(effort: int) -> float:
        share = np.clip(effort - queries[:, 0], 0, k) / k
        return float(share.mean() - module.CONFIDENCE * share.std() / (len(share) - 1) ** 0.5)

    least = next(effort for effort in range(first, 1000) if lower_end(effort) >= 0.99)
    assert contender.effort == least
    mean, error = module.recall(contender.search(queries, k), expected)
    assert mean - module.CONFIDENCE * error == pytest.approx(lower_end(least))
    contender.tune(queries, expected + 1, 128)
    assert contender.effort == 128


def test_the_hardware_of_a_row_is_what_did_the_work() -> None:
    module = imported("_common")
    gpu = SimpleNamespace(name="wgpu", description="wgpu: Radeon RX 6650 XT (RADV; Vulkan)")
    assert module.hardware_name(gpu, 2) == gpu.description
    mirrors = SimpleNamespace(name="numba", description="numba")
    assert module.hardware_name(mirrors, 2) == f"2 threads, {module.processor_name()}"


@pytest.mark.slow
@pytest.mark.parametrize("step", STEPS)
def test_the_gpu_script_runs_on_a_software_adapter(step: str, tmp_path: Path) -> None:
    """Run with `pytest -m slow -k gpu_script tests/test_benchmarks.py`."""
    leaderboard = (FOLDER / "leaderboard.json").read_bytes()
    script = str(FOLDER / "_gpu.py")
    small = ("--software", "--tiny", "--minutes", "0.1")
    done = subprocess.run(
        [sys.executable, script, *small, "--only", step, "--folder", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (row,) = json.loads((tmp_path / "steps.json").read_text())["steps"]
    assert (row["step"], row["exit status"]) == (step, 0)
    found = json.loads((tmp_path / row["file"]).read_text())
    if step == "verify_kernels":
        assert found
    else:
        assert found["benchmark"] == step
        assert found["rows"] if "rows" in found else found["records"]
    assert (FOLDER / "leaderboard.json").read_bytes() == leaderboard
