import errno
import json
import shutil

import numpy as np
import pytest
import torch

from ebm_wgpu.errors import CheckpointError, StoreError
from ebm_wgpu.files import TEMPORARY_PREFIX, json_digest
from ebm_wgpu.sphere import random_uniform
from ebm_wgpu.splats.store import SplatStore
from ebm_wgpu.training import checkpoints as module
from ebm_wgpu.training.checkpoints import (
    check_shapes,
    checkpoint_name,
    read_checkpoint,
    verify_checkpoint,
    write_checkpoint,
)

NAMES = ("splats.h5", "weights.safetensors", "trainer.pt", "manifest.json")


def store(seed=0):
    return SplatStore.from_directions(random_uniform(np.random.default_rng(seed), 3, 8), kappa=5)


WEIGHTS = {"decoder.w": torch.arange(6.0).reshape(2, 3), "decoder.b": torch.tensor([-0.0, 2.5])}
STATE = {"step": 7, "random": torch.get_rng_state(), "nested": {"moments": [torch.ones(2)]}}


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("checkpoints"), 7, store(), WEIGHTS, STATE)


@pytest.fixture
def copy(original, tmp_path):
    return shutil.copytree(original, tmp_path / original.name)


def test_what_is_written_is_read(original):
    checkpoint = read_checkpoint(original)
    assert checkpoint.step == 7
    assert checkpoint.path.name == "00000007"
    assert np.array_equal(checkpoint.store.mu, store().mu)
    assert checkpoint.weights.keys() == WEIGHTS.keys()
    for name, tensor in WEIGHTS.items():
        assert checkpoint.weights[name].numpy().tobytes() == tensor.numpy().tobytes()
    state = checkpoint.trainer_state()
    assert state["step"] == 7
    assert torch.equal(state["random"], STATE["random"])
    assert torch.equal(state["nested"]["moments"][0], torch.ones(2))
    manifest = json.loads((original / "manifest.json").read_text())
    assert manifest["libraries"].keys() == {"ebm_wgpu", "torch", "numpy"}
    assert sorted(p.name for p in original.iterdir()) == sorted(NAMES)


def test_a_model_without_splats_has_no_file_of_them(tmp_path):
    path = write_checkpoint(tmp_path, 4, None, WEIGHTS, STATE)
    assert sorted(p.name for p in path.iterdir()) == sorted(set(NAMES) - {"splats.h5"})
    listed = json.loads((path / "manifest.json").read_text())["files"]
    assert set(listed) == {"weights.safetensors", "trainer.pt"}
    checkpoint = read_checkpoint(path)
    assert (checkpoint.step, checkpoint.store) == (4, None)
    assert checkpoint.weights.keys() == WEIGHTS.keys()
    (path / "weights.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"weights\.safetensors"):
        read_checkpoint(path)


def test_writing_again_replaces(tmp_path):
    write_checkpoint(tmp_path, 3, store(0), WEIGHTS, STATE)
    path = write_checkpoint(tmp_path, 3, store(1), WEIGHTS, STATE)
    assert np.array_equal(read_checkpoint(path).store.mu, store(1).mu)
    assert list(tmp_path.iterdir()) == [path]


def test_a_leftover_of_the_same_step_is_no_obstacle(tmp_path):
    leftover = tmp_path / f"{TEMPORARY_PREFIX}{checkpoint_name(3)}"
    leftover.mkdir()
    (leftover / "splats.h5").write_bytes(b"half")
    assert verify_checkpoint(write_checkpoint(tmp_path, 3, store(), WEIGHTS, STATE)) == 3
    assert not leftover.exists()


@pytest.mark.parametrize("stage", ["save", "check_written", "_write_manifest"])
def test_a_crash_while_writing_leaves_no_checkpoint(tmp_path, monkeypatch, stage):
    def crash(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, stage, crash)
    with pytest.raises(KeyboardInterrupt):
        write_checkpoint(tmp_path, 3, store(), WEIGHTS, STATE)
    assert [p.name for p in tmp_path.iterdir()] == [f"{TEMPORARY_PREFIX}00000003"]


def test_a_full_disk_and_invalid_splats_are_clear_errors(tmp_path, monkeypatch):
    broken = store()
    broken.alpha[0] = np.nan
    with pytest.raises(StoreError, match="alpha of row 0"):
        write_checkpoint(tmp_path, 3, broken, WEIGHTS, STATE)

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "save", full)
    with pytest.raises(CheckpointError, match=r"No space left on device.*: make room"):
        write_checkpoint(tmp_path, 3, store(), WEIGHTS, STATE)
    # What did not become a checkpoint takes no room.
    assert list(tmp_path.iterdir()) == []


def test_splats_are_not_begun_where_they_do_not_fit(tmp_path, monkeypatch):
    # HDF5 crashes where the disk fills up under it, so it must not get that far.
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(9, 8, 1))
    with pytest.raises(CheckpointError, match=r"bytes are needed and 1 are free.*: make room"):
        write_checkpoint(tmp_path, 3, store(), WEIGHTS, STATE)
    assert list(tmp_path.iterdir()) == []


class _Altering:
    """A file that stores another bit than it was given, once."""

    def __init__(self, file):
        self._file, self._altered = file, False

    def write(self, data):
        altered = bytearray(data)
        if not self._altered:
            altered[len(altered) // 2] ^= 4
            self._altered = True
        return self._file.write(bytes(altered))

    def __getattr__(self, name):
        return getattr(self._file, name)


@pytest.mark.parametrize("name", ["weights.safetensors", "trainer.pt"])
def test_bytes_that_do_not_read_back_are_no_checkpoint(tmp_path, monkeypatch, name):
    hashed = module._HashedFile
    monkeypatch.setattr(
        module,
        "_HashedFile",
        lambda raw: hashed(_Altering(raw) if raw.name.endswith(name) else raw),
    )
    with pytest.raises(CheckpointError, match="does not read back"):
        write_checkpoint(tmp_path, 3, store(), WEIGHTS, STATE)
    assert list(tmp_path.iterdir()) == []


def test_splats_that_do_not_read_back_are_no_checkpoint(tmp_path):
    def save(splats, path):
        SplatStore.save(splats, path)
        content = bytearray(path.read_bytes())
        content[content.rindex(np.float32(splats.mu[0, 0]).tobytes())] ^= 1
        path.write_bytes(content)

    with pytest.raises(CheckpointError, match="does not read back"):
        write_checkpoint(tmp_path, 3, _Saving(store(), save), WEIGHTS, STATE)


class _Saving:
    """A store whose `save` is another function."""

    def __init__(self, splats, save):
        self._splats, self._save = splats, save

    def save(self, path):
        self._save(self._splats, path)


def test_every_flipped_bit_is_found(copy):
    rng = np.random.default_rng(0)
    for name in NAMES:
        file = copy / name
        good = file.read_bytes()
        for _ in range(40):
            position, bit = int(rng.integers(len(good))), int(rng.integers(8))
            bad = bytearray(good)
            bad[position] ^= 1 << bit
            if name == "manifest.json" and _same_json(bytes(bad), good):
                continue
            file.write_bytes(bytes(bad))
            with pytest.raises(CheckpointError) as caught:
                read_checkpoint(copy)
            assert str(file) in str(caught.value)
            assert "\n" not in str(caught.value)
        file.write_bytes(good)
    read_checkpoint(copy)


def _same_json(bad: bytes, good: bytes) -> bool:
    try:
        return json.loads(bad) == json.loads(good)
    except ValueError:
        return False


@pytest.mark.parametrize("name", NAMES)
def test_missing_truncated_and_empty_files_are_named(copy, name):
    file = copy / name
    content = file.read_bytes()
    for damaged in (content[:-1], content[: len(content) // 2], b""):
        file.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=name):
            read_checkpoint(copy)
    file.unlink()
    with pytest.raises(CheckpointError, match=name):
        read_checkpoint(copy)


def test_other_versions_and_formats_are_refused(copy):
    file = copy / "manifest.json"
    content = json.loads(file.read_bytes())
    del content["sha256"]
    for change, message in (
        ({"version": 2}, "has version 2, this program reads 1"),
        ({"format": "x"}, "no checkpoint manifest"),
    ):
        changed = {**content, **change}
        file.write_text(json.dumps({**changed, "sha256": json_digest(changed)}))
        with pytest.raises(CheckpointError, match=message):
            verify_checkpoint(copy)
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        verify_checkpoint(copy.parent / "00000099")


def test_a_trainer_state_that_would_run_code_is_refused(tmp_path):
    path = write_checkpoint(tmp_path, 1, store(), WEIGHTS, {"evil": _Evil()})
    with pytest.raises(CheckpointError, match=r"trainer\.pt cannot be read"):
        read_checkpoint(path).trainer_state()


class _Evil:
    def __reduce__(self):
        return (print, ("executed",))


def test_shapes_are_compared_by_name(tmp_path):
    model = {"a": torch.zeros(2, 3), "b": torch.zeros(4)}
    check_shapes(tmp_path, dict(model), model)
    cases = [
        ({"a": torch.zeros(2, 3)}, r"lacks tensor b \(4,\)"),
        (
            {"a": torch.zeros(2, 5), "b": torch.zeros(4)},
            r"tensor a is float32 \(2, 5\) and the model's is float32 \(2, 3\)",
        ),
        (
            {"a": torch.zeros(2, 3).double(), "b": torch.zeros(4)},
            r"float64 \(2, 3\) and the model's is float32",
        ),
        ({**model, "c": torch.zeros(1)}, "has tensor c, the model has not"),
    ]
    for found, message in cases:
        with pytest.raises(CheckpointError, match=message):
            check_shapes(tmp_path, found, model)
