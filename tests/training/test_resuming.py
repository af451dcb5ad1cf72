import dataclasses
import json
import shutil

import pytest

from ebm_wgpu.config import apply_overrides
from ebm_wgpu.errors import CheckpointError, ConfigError
from ebm_wgpu.training.resuming import CHANGEABLE, REPLACEABLE, check_resumable, differences
from ebm_wgpu.training.run_folder import RunFolder
from ebm_wgpu.training.trainer import Trainer


def test_length_and_reports_may_change(tiny):
    changed = apply_overrides(
        tiny,
        ["train.steps=99", "train.max_minutes=5", "train.log_every=7", "train.eval_every=11"],
    )
    check_resumable(tiny, changed)
    assert set(differences(tiny, changed)) == {
        "train.steps was 24 and is now 99",
        "train.max_minutes was None and is now 5.0",
        "train.log_every was 3 and is now 7",
        "train.eval_every was 8 and is now 11",
    }
    assert differences(tiny, tiny) == ()
    fields = {f"train.{field.name}" for field in dataclasses.fields(tiny.train)}
    assert fields >= CHANGEABLE
    assert not REPLACEABLE & CHANGEABLE


def test_what_a_model_is_may_not_change(tiny):
    changed = apply_overrides(tiny, ["model.dim=24", "train.steps=99"])
    for check in (check_resumable, differences):
        with pytest.raises(ConfigError, match=r"model\.dim was 16 and is now 24: resume with"):
            check(tiny, changed)


def test_texts_may_have_moved_once_their_content_was_compared(tiny):
    moved = apply_overrides(tiny, ["data.dataset=elsewhere.txt"])
    assert len(differences(tiny, moved)) == 1
    with pytest.raises(ConfigError, match=r"data\.dataset was"):
        check_resumable(tiny, moved)


def test_a_longer_run_continues_a_shorter_one(
    tiny, trained, tmp_path, numba_device, model_files, recorder
):
    # All four steps warm up, where the rate does not depend yet on when the run is to end.
    run, _, _ = trained
    short = apply_overrides(tiny, ["train.steps=4"])
    Trainer(short, tmp_path / "run", numba_device).train()
    Trainer(tiny, tmp_path / "run", numba_device, [recorder], resume=True).train()
    assert recorder.start.step == 4
    resumed = RunFolder(tmp_path / "run")
    assert resumed.read_config() == tiny
    assert model_files(resumed) == model_files(run)


def test_a_finished_run_resumes_to_its_end(tiny, copied, numba_device, model_files):
    before = model_files(copied)
    result = Trainer(tiny, copied.path, numba_device, resume=True).train()
    assert (result.reason, result.step) == ("finished", 24)
    assert model_files(copied) == before


def test_a_deleted_checkpoint_is_done_without(
    tiny, trained, copied, numba_device, model_files, recorder
):
    shutil.rmtree(copied.checkpoint_path("last"))
    Trainer(tiny, copied.path, numba_device, [recorder], resume=True).train()
    assert recorder.start.step == 20
    assert model_files(copied) == model_files(trained[0])


def test_a_configuration_that_was_altered_is_named(tiny, copied, numba_device):
    path = copied.path / "config.json"
    path.write_text(path.read_text().replace('"lr": 0.01', '"lr": 0.03'))
    with pytest.raises(CheckpointError, match=r"config\.json is not what .*: train\.lr was 0\.01"):
        Trainer(copied.read_config(), copied.path, numba_device, resume=True).train()


def test_another_length_is_told(tiny, copied, numba_device, recorder):
    longer = apply_overrides(tiny, ["train.steps=25"])
    Trainer(longer, copied.path, numba_device, [recorder], resume=True).train()
    assert recorder.start.changes == ("train.steps was 24 and is now 25",)


@pytest.mark.parametrize(
    "override", ["train.lr=0.5", "model.dim=24", "data.block_size=13", "train.seed=4"]
)
def test_another_configuration_is_refused(tiny, copied, numba_device, override):
    key = override.split("=")[0]
    with pytest.raises(ConfigError, match=f"{key} was .* and is now"):
        Trainer(apply_overrides(tiny, [override]), copied.path, numba_device, resume=True).train()


def test_another_text_is_refused(tiny, copied, tmp_path, corpus, numba_device):
    lines = corpus.read_text().splitlines()
    other = tmp_path / "other.txt"
    other.write_text("\n".join([*lines[1:-20], lines[0], *lines[-20:]]) + "\n")
    content = json.loads((copied.path / "config.json").read_text())
    content["data"]["dataset"] = str(other)
    (copied.path / "config.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="is not the text this run was trained on"):
        Trainer(copied.read_config(), copied.path, numba_device, resume=True).train()


def test_a_damaged_checkpoint_is_refused_and_nothing_is_changed(tiny, copied, numba_device):
    path = copied.checkpoint_path("last") / "trainer.pt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    before = copied.metrics_path.read_bytes()
    with pytest.raises(CheckpointError, match=r"trainer.pt differs from its SHA-256"):
        Trainer(tiny, copied.path, numba_device, resume=True).train()
    assert copied.metrics_path.read_bytes() == before
