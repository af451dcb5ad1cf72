import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ebm_wgpu.config import Config
from ebm_wgpu.errors import CheckpointError, DataError
from ebm_wgpu.files import TEMPORARY_PREFIX
from ebm_wgpu.text.tokenizers import make_tokenizer
from ebm_wgpu.training.checkpoints import checkpoint_name
from ebm_wgpu.training.run_folder import RunFolder

HOLD = """
import sys, time
from pathlib import Path
from ebm_wgpu.files import locked
with locked(Path(sys.argv[1]) / "run.lock"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def run(tmp_path):
    run = RunFolder(tmp_path / "run")
    run.create()
    run.write_config(Config())
    return run


def add_checkpoints(run, *steps):
    for step in steps:
        folder = run.checkpoints / checkpoint_name(step)
        folder.mkdir()
        (folder / "splats.h5").write_bytes(b"x")


def test_config_and_tokenizer_come_back(run):
    tokenizer = make_tokenizer("char", "abc def")
    run.write_tokenizer(tokenizer)
    assert run.exists()
    assert run.read_config() == Config()
    assert run.read_tokenizer().fingerprint == tokenizer.fingerprint


def test_damaged_config_and_tokenizer_are_named(run):
    for content in ("{", "[]", "\x00"):
        (run.path / "config.json").write_text(content)
        with pytest.raises(CheckpointError, match=r"config.json cannot be read"):
            run.read_config()
    with pytest.raises(DataError, match=r"tokenizer.json"):
        run.read_tokenizer()


def test_locate_takes_runs_and_their_checkpoints(run, tmp_path):
    add_checkpoints(run, 5)
    assert RunFolder.locate(run.path) == (run, None)
    located, step = RunFolder.locate(run.checkpoints / "00000005")
    assert located.path.samefile(run.path)
    assert step == 5
    for wrong in (tmp_path, tmp_path / "absent", run.checkpoints):
        with pytest.raises(CheckpointError, match="is no run folder"):
            RunFolder.locate(wrong)


def test_a_new_run_touches_nothing_of_others(run, tmp_path):
    with pytest.raises(CheckpointError, match="holds a run already: go on with --resume"):
        run.check_unused()
    foreign = tmp_path / "home"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("x")
    with pytest.raises(CheckpointError, match=r"holds thesis.tex, which no run wrote"):
        RunFolder(foreign).check_unused()
    add_checkpoints(run, 3)
    (run.path / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"config\.json is missing and checkpoint 3"):
        run.check_unused()
    RunFolder(tmp_path / "absent").check_unused()


def test_a_run_killed_before_it_began_can_be_started_again(tmp_path):
    run = RunFolder(tmp_path)
    run.create()
    run.write_tokenizer(make_tokenizer("char", "abc"))
    (tmp_path / f"{TEMPORARY_PREFIX}config.json").write_bytes(b"{")
    run.check_unused()


def test_a_file_in_the_way_is_named(tmp_path):
    (tmp_path / "run").write_text("x")
    with pytest.raises(CheckpointError, match="cannot be made"):
        RunFolder(tmp_path / "run").create()


def test_pointers_and_pruning(run):
    assert run.pointer("last") is None
    with pytest.raises(CheckpointError, match="has no checkpoint yet"):
        run.checkpoint_path("last")
    for step in (1, 2, 3, 4, 5):
        add_checkpoints(run, step)
        run.commit(step, 1)
        run.prune(2, [1])
    assert run.steps() == [1, 4, 5]
    assert run.checkpoint_path("last").name == "00000005"
    assert run.checkpoint_path("best").name == "00000001"
    assert run.checkpoint_path(4).name == "00000004"
    with pytest.raises(CheckpointError, match="no checkpoint of step 2: choose one of 1, 4, 5"):
        run.checkpoint_path(2)
    with pytest.raises(CheckpointError, match="no checkpoint called 'newest'"):
        run.checkpoint_path("newest")


@pytest.mark.parametrize("content",
    [
        "", "{}", "[1]", "7", '{"step": "x"}', '{"step": -1}', "\xff", '{"step": 7, "a": 1}',
        '{"step": 7, "sha256": "0"}', '{"step": 7, "sha255": null}',
    ],
)  # fmt: skip
def test_a_damaged_pointer_is_named(run, content):
    (run.checkpoints / "last.json").write_text(content, "latin-1")
    with pytest.raises(CheckpointError, match=r"last.json"):
        run.pointer("last")


def test_prune_keeps_the_newest_the_named_and_the_last(run):
    add_checkpoints(run, 1, 2, 3, 4, 5)
    run.commit(2, 1)
    run.prune(1, [3, 9])
    assert run.steps() == [2, 3, 5]


def test_metrics_are_cut_at_a_mark(run):
    run.append_metrics({"step": 0, "loss": 0.1})
    run.append_metrics({"step": 5, "loss": 0.2})
    mark, before = run.sync_metrics(), run.metrics_path.read_bytes()
    run.append_metrics({"step": 10, "loss": 0.3})
    with run.metrics_path.open("a") as file:
        file.write('{"step": 20, "lo')
    assert [record["step"] for record in run.read_metrics()] == [0, 5, 10]
    run.truncate_metrics(mark)
    assert run.metrics_path.read_bytes() == before
    run.append_metrics({"step": 15})
    assert [record["step"] for record in run.read_metrics()] == [0, 5, 15]
    run.truncate_metrics(None)
    assert run.read_metrics() == []


def test_metrics_that_were_altered_are_named(run):
    for step in (0, 5):
        run.append_metrics({"step": step, "loss": 0.1})
    mark, good = run.sync_metrics(), run.metrics_path.read_bytes()
    for bad in (good.replace(b"0.1", b"0.7"), good[:-1], b""):
        run.metrics_path.write_bytes(bad)
        with pytest.raises(CheckpointError, match=r"metrics\.jsonl was altered or cut short"):
            run.truncate_metrics(mark)
        assert run.metrics_path.read_bytes() == bad
    run.metrics_path.write_bytes(good.replace(b'"step": 0', b'"step" 0'))
    with pytest.raises(CheckpointError, match=r"line 1 of \S+metrics\.jsonl is damaged"):
        run.read_metrics()
    run.metrics_path.unlink()
    run.truncate_metrics(mark)
    assert "metrics.jsonl is missing" in (run.path / "train.log").read_text()
    assert run.read_metrics() == []


def test_rewind_undoes_what_came_after_the_checkpoint(run):
    add_checkpoints(run, 10, 20, 30)
    (run.checkpoints / f"{TEMPORARY_PREFIX}00000040").mkdir()
    (run.path / f"{TEMPORARY_PREFIX}metrics.jsonl").write_bytes(b"")
    for step in (10, 20):
        run.append_metrics({"step": step})
    mark = run.sync_metrics()
    run.append_metrics({"step": 30})
    run.commit(20, 10)
    (run.checkpoints / "best.json").write_text('{"step": 30}')
    run.rewind(20, 10, mark)
    assert run.steps() == [10, 20]
    assert run.pointer("best") == 10
    assert [record["step"] for record in run.read_metrics()] == [10, 20]
    assert not list(run.path.rglob(f"{TEMPORARY_PREFIX}*"))
    run.append_metrics({"step": 0})
    run.rewind(None, None, None)
    assert run.steps() == []
    assert (run.pointer("best"), run.pointer("last")) == (None, None)
    assert run.read_metrics() == []


def test_a_run_goes_on_from_the_newest_checkpoint_there_is(run):
    assert run.newest() is None
    add_checkpoints(run, 5, 10, 15)
    # Without a pointer, all of them are whole.
    assert run.newest() == 15
    run.commit(10, None)
    assert run.newest() == 10
    for step in (10, 15):
        shutil.rmtree(run.checkpoints / checkpoint_name(step))
    assert run.newest() == 5


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_what_the_system_refuses_is_one_line(run, monkeypatch, code):
    def refuse(path, *arguments, **options):
        raise OSError(code, os.strerror(code), str(path))

    monkeypatch.setattr(Path, "open", refuse)
    for write, name in (
        (lambda: run.log("hello"), "train.log"),
        (lambda: run.append_metrics({"step": 1}), "metrics.jsonl"),
        (lambda: run.write_config(Config()), "config.json"),
        (lambda: run.commit(1, None), "last.json"),
        (lambda: run.lock().__enter__(), "run.lock"),
    ):
        with pytest.raises(CheckpointError) as caught:
            write()
        assert name in str(caught.value) and os.strerror(code) in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.skipif(os.name != "posix", reason="forks and SIGKILL are POSIX")
def test_the_lock_of_a_killed_process_blocks_nobody(run):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(run.path)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(CheckpointError, match="in use by another process"), run.lock():
        pass
    holder.kill()
    holder.communicate()
    with run.lock():
        assert (run.path / "run.lock").exists()


def test_metrics_hold_only_numbers_json_has(run):
    with pytest.raises(ValueError, match="JSON"):
        run.append_metrics({"step": 1, "loss": float("nan")})


def test_log_lines_carry_the_time(run):
    run.log("hello")
    (line,) = (run.path / "train.log").read_text().splitlines()
    assert line.endswith(" hello")
    assert len(line.split()[0]) == len("2026-01-01T00:00:00+00:00")
