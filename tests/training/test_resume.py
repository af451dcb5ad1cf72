"""A run killed with SIGKILL and resumed ends with the same bits as one never killed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ebm_wgpu.config import apply_overrides
from ebm_wgpu.training.checkpoints import SPLATS_FILE, WEIGHTS_FILE, read_checkpoint
from ebm_wgpu.training.run_folder import RunFolder

pytestmark = pytest.mark.skipif(os.name != "posix", reason="forks and SIGKILL are POSIX")


def comparable(records):
    return [
        {k: v for k, v in record.items() if k not in ("elapsed", "tokens_per_second")}
        for record in records
    ]


def flat(state):
    if isinstance(state, dict):
        return [item for key in sorted(state, key=str) for item in flat(state[key])]
    if isinstance(state, list | tuple):
        return [item for value in state for item in flat(value)]
    return [state.numpy().tobytes() if isinstance(state, torch.Tensor) else state]


def test_a_killed_and_resumed_run_ends_bit_equal(tiny, tmp_path):
    config = tmp_path / "config.json"
    shorter = ["train.steps=14", "train.checkpoint_every=4", "train.eval_every=6"]
    config.write_text(apply_overrides(tiny, shorter).to_json())
    script = Path(__file__).with_name("killed_runs.py")
    arguments = [config, tmp_path / "whole", tmp_path / "killed", 0]
    # One thread each: how sums are split over threads is part of the bits.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(script), *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr

    whole, killed = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "killed")
    assert comparable(killed.read_metrics()) == comparable(whole.read_metrics())
    assert killed.steps() == whole.steps()
    for name in ("best", "last"):
        expected, found = whole.checkpoint_path(name), killed.checkpoint_path(name)
        assert found.name == expected.name
        for file in (SPLATS_FILE, WEIGHTS_FILE):
            assert (found / file).read_bytes() == (expected / file).read_bytes(), file
        states = [read_checkpoint(path).trainer_state() for path in (expected, found)]
        for state in states:
            del state["progress"]["elapsed"]
            state["progress"]["logged"].pop("seconds", None)
        assert flat(states[0]) == flat(states[1])
    assert not [p for p in killed.path.rglob("*") if ".tmp" in p.name]
