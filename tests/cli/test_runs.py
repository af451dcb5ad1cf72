"""Which run a command is about: the one named, or the newest, of a family if one is asked for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from click.testing import Result

from ebm_wgpu.cli._runs import find_run
from ebm_wgpu.config import Config, apply_overrides
from ebm_wgpu.errors import CheckpointError, ConfigError
from ebm_wgpu.training.run_folder import RunFolder

from .conftest import ebm, one_line_error


def plant(folder: Path, name: str, family: str, touched: float) -> Path:
    """A run of a family, worked on last at a time."""
    run = RunFolder(folder / name)
    run.create()
    run.write_config(apply_overrides(Config(), [f"model.family={family}"]))
    run.log("started")
    for path in run.path.iterdir():
        os.utime(path, (touched, touched))
    return run.path


@pytest.fixture
def planted(tmp_path: Path) -> dict[str, Path]:
    """Runs by name; those of transformers are the newest, and one of them cannot be read."""
    families = {"a": "splat", "b": "nano", "c": "nano", "d": "transformer", "e": "transformer"}
    runs = {
        name: plant(tmp_path, name, family, 1000 + number)
        for number, (name, family) in enumerate(families.items())
    }
    (runs["e"] / "config.json").write_text("[")
    os.utime(runs["e"] / "config.json", (2000, 2000))
    return runs


def test_the_newest_run_of_a_family_is_taken(planted: dict[str, Path], tmp_path: Path) -> None:
    found = {family: find_run(family=family, folder=tmp_path).name for family in ("splat", "nano")}
    assert found == {"splat": "a", "nano": "c"}
    os.utime(planted["b"] / "train.log", (3000, 3000))
    assert find_run(family="nano", folder=tmp_path) == planted["b"]
    # One that cannot be read is of no family, and the newest of all.
    assert find_run(family="transformer", folder=tmp_path) == planted["d"]
    os.utime(planted["b"] / "train.log", (1500, 1500))
    assert find_run(folder=tmp_path) == planted["e"]


def test_a_run_that_is_named_must_be_of_the_family(planted: dict[str, Path]) -> None:
    for path in (planted["b"], planted["b"] / "checkpoints" / "00000007"):
        path.mkdir(exist_ok=True)
        assert find_run(path) == find_run(path, "nano") == path
        with pytest.raises(CheckpointError, match=r"b.* is a run of model\.family=nano, not ebt"):
            find_run(path, "ebt")


def test_where_there_is_no_such_run_or_family_is_said(
    planted: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=r"no run of model\.family=ebt: train one with ebm t"):
        find_run(family="ebt", folder=tmp_path)
    for family in (None, "ebt"):
        with pytest.raises(CheckpointError, match="holds no run: train a model first"):
            find_run(family=family, folder=tmp_path / "none")
    for path in (None, planted["a"]):
        with pytest.raises(ConfigError, match=r"model\.family=gan must be one of splat, "):
            find_run(path, "gan", tmp_path)


@pytest.mark.parametrize(
    "command",
    [
        ("sample", "--prompt", "x", "--checkpoint"),
        ("evaluate", "--checkpoint"),
        ("embed", "x", "--checkpoint"),
        ("compose", "x", "y", "--checkpoint"),
        ("compose", "--fit", "--checkpoint"),
        ("diagnose",),
    ],
)
def test_every_command_takes_a_family(
    trained: tuple[Path, Result], command: tuple[str, ...]
) -> None:
    run, _ = trained
    one_line_error(
        ebm(*command, run, "--model", "nano"), "is a run of model.family=splat, not nano: leave out"
    )
    one_line_error(ebm(*command, run, "--model", "gan"), "model.family=gan must be one of splat")


def test_the_family_chooses_among_the_runs_here(
    trained: tuple[Path, Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "old").symlink_to(trained[0])
    plant(tmp_path / "runs", "new", "nano", 4e9)
    options = ("--device", "numba", "--prompt", "the cat", "--max-tokens", 2)
    chosen = ebm("sample", "--model", "splat", *options)
    assert chosen.exit_code == 0, chosen.output
    assert chosen.stdout.startswith("the cat")
    one_line_error(ebm("sample", *options), "new")
