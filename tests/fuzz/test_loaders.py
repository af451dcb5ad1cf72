"""Loaders under fuzz, and the ones that must never run what a file holds."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from ebm_wgpu.errors import CheckpointError
from ebm_wgpu.files import json_digest, parse_json
from ebm_wgpu.training.checkpoints import (
    MANIFEST_FILE,
    TRAINER_FILE,
    WEIGHTS_FILE,
    read_checkpoint,
    write_checkpoint,
)
from ebm_wgpu.training.run_folder import RunFolder

FUZZER = Path(__file__).with_name("fuzz.py")
FORMATS = {
    "splats.h5", "weights.safetensors", "trainer.pt", "manifest.json", "tokenizer.json",
    "config.json", "metrics.jsonl", "last.json", "composition.safetensors",
}  # fmt: skip


def fuzz(*arguments: object) -> dict:
    done = subprocess.run(
        [sys.executable, str(FUZZER), *map(str, arguments)],
        capture_output=True, text=True, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-6000:] + done.stdout
    print(done.stdout)
    return json.loads(done.stdout)


def check(report: dict, inputs: int) -> None:
    assert report["failures"] == 0
    assert report["formats"].keys() == FORMATS
    assert inputs <= report["inputs"] <= inputs + len(FORMATS)
    for counts in report["formats"].values():
        # Some inputs get through and most do not: otherwise the mutations are too mild or too wild.
        assert 0 < counts["valid"] < sum(counts.values()) / 2 + 50


def test_mutated_files_are_read_or_refused() -> None:
    check(fuzz("--inputs", 900, "--seed", 20261122), 900)


@pytest.mark.slow
def test_a_hundred_thousand_mutated_files_are_read_or_refused() -> None:
    """Several minutes: `pytest -m slow tests/fuzz -s` prints seeds and counts."""
    for seed in range(4):
        check(fuzz("--inputs", 25_000, "--seed", seed), 25_000)


class Malicious:
    """What runs a command when it is unpickled."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self):
        return os.system, (f"touch {self.witness}",)


def _with_trainer_file(folder: Path, content: bytes) -> Path:
    """A checkpoint whose manifest agrees with a trainer.pt that somebody else made."""
    path = write_checkpoint(folder, 3, None, {"a": torch.ones(2)}, {"progress": {}})
    (path / TRAINER_FILE).write_bytes(content)
    manifest = json.loads((path / MANIFEST_FILE).read_bytes())
    del manifest["sha256"]
    digest = hashlib.sha256(content).hexdigest()
    manifest["files"][TRAINER_FILE] = {"bytes": len(content), "sha256": digest}
    manifest["sha256"] = json_digest(manifest)
    (path / MANIFEST_FILE).write_text(json.dumps(manifest))
    return path


def _zipped(witness: Path) -> bytes:
    """A file of torch.save whose pickle was exchanged."""
    buffer = io.BytesIO()
    torch.save({"progress": {}}, buffer)
    exchanged = io.BytesIO()
    with zipfile.ZipFile(buffer) as before, zipfile.ZipFile(exchanged, "w") as after:
        for name in before.namelist():
            evil = name.endswith("data.pkl")
            after.writestr(name, pickle.dumps(Malicious(witness), 2) if evil else before.read(name))
    return exchanged.getvalue()


def _saved(witness: Path) -> bytes:
    buffer = io.BytesIO()
    torch.save({"progress": Malicious(witness)}, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("make", [_saved, _zipped, lambda path: pickle.dumps(Malicious(path), 2)])
def test_a_pickle_that_runs_commands_is_refused(make, tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    checkpoint = read_checkpoint(_with_trainer_file(tmp_path, make(witness)))
    with pytest.raises(CheckpointError, match=r"trainer\.pt cannot be read"):
        checkpoint.trainer_state()
    assert not witness.exists()


def test_weights_are_never_unpickled(tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    path = write_checkpoint(tmp_path, 3, None, {"a": torch.ones(2)}, {"progress": {}})
    content = _saved(witness)
    (path / WEIGHTS_FILE).write_bytes(content)
    manifest = json.loads((path / MANIFEST_FILE).read_bytes())
    del manifest["sha256"]
    digest = hashlib.sha256(content).hexdigest()
    manifest["files"][WEIGHTS_FILE] = {"bytes": len(content), "sha256": digest}
    manifest["sha256"] = json_digest(manifest)
    (path / MANIFEST_FILE).write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match=r"weights\.safetensors cannot be read"):
        read_checkpoint(path)
    assert not witness.exists()


def test_json_nested_too_deeply_is_no_traceback(tmp_path: Path) -> None:
    for bomb in ("[" * 100_000, '{"a":' * 100_000):
        with pytest.raises(ValueError, match="nested too deeply"):
            parse_json(bomb)
    run = RunFolder(tmp_path)
    run.create()
    run.metrics_path.write_text("[" * 100_000 + "\n" + '{"step": 1}\n')
    with pytest.raises(CheckpointError, match="line 1 of"):
        run.read_metrics()
    (run.checkpoints / "last.json").write_text("[" * 100_000)
    with pytest.raises(CheckpointError, match="is damaged"):
        run.pointer("last")


@pytest.mark.parametrize(
    "change",
    [
        {"step": "7"},
        {"step": -1},
        {"step": True},
        {"tokenizer": 5},
        {"files": []},
        {"files": {WEIGHTS_FILE: {"bytes": 1, "sha256": ""}}},
        {"files": {WEIGHTS_FILE: 5, TRAINER_FILE: 5}},
        {"files": {"../../etc/passwd": {"bytes": 1, "sha256": ""}}},
    ],
)
def test_a_manifest_with_a_right_digest_and_wrong_content_is_refused(
    change: dict, tmp_path: Path
) -> None:
    path = write_checkpoint(tmp_path, 7, None, {"a": torch.ones(2)}, {"progress": {}})
    manifest = json.loads((path / MANIFEST_FILE).read_bytes())
    del manifest["sha256"]
    manifest |= change
    (path / MANIFEST_FILE).write_text(json.dumps({**manifest, "sha256": json_digest(manifest)}))
    with pytest.raises(CheckpointError, match="does not say what a manifest must"):
        read_checkpoint(path)


def test_the_fuzzer_reports_crashes_and_hangs_as_failures(tmp_path: Path) -> None:
    """The fuzzer itself, on loaders that die, hang or let errors out."""
    script = tmp_path / "planted.py"
    script.write_text(
        f"""
import sys
sys.path.insert(0, {str(FUZZER.parent)!r})
import os, time, fuzz, targets
fuzz._HANG_SECONDS = 1.0

class Planted(targets.Pointer):
    name, share = "planted", 1.0
    calls = 0
    def load(self):
        Planted.calls += 1
        if Planted.calls == 4: raise ZeroDivisionError
        if Planted.calls == 9: os.abort()
        return super().load()

class Hanging(targets.Pointer):
    name, share = "hanging", 1.0
    def load(self):
        time.sleep(60)

fuzz.TARGETS = (Planted, Hanging)
counts, failures = fuzz.fuzz_target(0, 0, 12)
print([at for at, _ in failures], counts["failed"], counts["crashed"])
counts, failures = fuzz.fuzz_target(1, 0, 1)
print(failures[0][1])
"""
    )
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=False
    )
    assert done.stdout.splitlines() == ["[3, 8] 1 1", "hung for 1 seconds"], (
        done.stdout + done.stderr
    )


def test_inputs_repeat_with_their_seed() -> None:
    sys.path.insert(0, str(FUZZER.parent))
    try:
        from mutations import mutate_bytes, mutate_json
    finally:
        sys.path.remove(str(FUZZER.parent))
    data, document = bytes(range(200)), {"a": [1, 2.5, "x"], "b": {"c": None}}
    for seed in range(20):
        rngs = [np.random.default_rng(seed) for _ in range(2)]
        assert mutate_bytes(data, rngs[0]) == mutate_bytes(data, rngs[1])
        assert repr(mutate_json(document, rngs[0])) == repr(mutate_json(document, rngs[1]))
    assert data == bytes(range(200))
    assert document == {"a": [1, 2.5, "x"], "b": {"c": None}}
