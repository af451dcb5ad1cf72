"""`ebm train` as a user runs it: output, files, resumption, and every kind of bad input."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import Result

from .conftest import TINY, ebm, one_line_error


def test_training_reports_perplexity_before_and_after(trained: tuple[Path, Result]) -> None:
    run, result = trained
    assert "parameters" in result.output
    found = re.search(r"perplexity: ([\d,.]+) before, ([\d,.]+) after", result.output)
    assert found
    before, after = (float(text.replace(",", "")) for text in found.groups())
    assert after < before
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert metrics[0]["valid"]["token_perplexity"] == pytest.approx(before, abs=0.06)
    assert metrics[-1]["valid"]["token_perplexity"] == pytest.approx(after, abs=0.06)


def test_a_run_folder_holds_what_the_design_says(trained: tuple[Path, Result]) -> None:
    run, _ = trained
    names = {path.name for path in run.iterdir()}
    assert {"config.json", "tokenizer.json", "metrics.jsonl", "train.log", "checkpoints"} <= names
    last = json.loads((run / "checkpoints" / "last.json").read_text())["step"]
    files = {path.name for path in (run / "checkpoints" / f"{last:08d}").iterdir()}
    assert files == {"splats.h5", "weights.safetensors", "trainer.pt", "manifest.json"}


def test_ctrl_c_saves_and_resume_goes_on(corpus: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = [
        str(Path(sys.executable).with_name("ebm")), "train", "--config", "nano", "--run", str(run),
        "--dataset", str(corpus), "--device", "numba", *TINY, "train.steps=100000",
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    metrics = run / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.exists() and '"step": 10,' in metrics.read_text()):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"ebm train --resume --run {run}" in output
    step = json.loads((run / "checkpoints" / "last.json").read_text())["step"]
    assert step >= 10
    result = ebm("train", "--resume", "--run", run, f"train.steps={step + 2}")
    assert result.exit_code == 0, result.output
    assert f"from step {step}" in result.output
    assert f"finished at step {step + 2}" in result.output


def test_a_reader_that_goes_away_does_not_end_the_run(corpus: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = [
        str(Path(sys.executable).with_name("ebm")), "train", "--config", "nano", "--run", str(run),
        "--dataset", str(corpus), "--device", "numba", *TINY, "train.steps=4", "train.eval_every=2",
    ]  # fmt: skip
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert process.stdout is not None and process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait() == 0
    assert json.loads((run / "checkpoints" / "last.json").read_text())["step"] == 4


def test_metrics_and_history_are_written_and_reports_need_their_package(
    trained: tuple[Path, Result], corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _ = trained
    history = json.loads((run / "history.json").read_text())["evaluations"]
    assert [entry["step"] for entry in history] == [0, 15, 30]
    assert all(entry["valid_perplexity"] > 1 for entry in history)
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert {"memory", "disk", "splats", "tokens_per_second"} <= set(metrics[-1])
    monkeypatch.setitem(sys.modules, "wandb", None)
    arguments = ["--config", "nano", "--dataset", corpus, "--run", tmp_path / "run", *TINY]
    result = ebm("train", *arguments, "train.report=wandb")
    one_line_error(result, r"pip install 'ebm-wgpu\[wandb\]'")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--config", "nanoo"], "unknown preset 'nanoo' .did you mean nano"),
        (["--config", "nano", "train.lrr=1"], "unknown option 'train.lrr': did you mean train.lr"),
        (["--config", "nano", "train.lr=fast"], "train.lr=fast must be a number"),
        (["--config", "nano", "--model", "gan"], "model.family=gan must be"),
        (["--config", "nano", "--dataset", "/nonexistent.txt"], "/nonexistent.txt"),
        (["--config", "nano", "model.n_splats=32"], "n_neighbours=64 must be <= model.n_splats=32"),
        (["--config", "nano", "--device", "cuda"], "train.device=cuda must be"),
        (["--config", "nano", "--resume"], "leave out --config"),
        (["--resume", "--run", "/nonexistent"], "/nonexistent"),
    ],
)
def test_bad_arguments_are_one_line_errors(arguments: list[str], words: str) -> None:
    one_line_error(ebm("train", *arguments), words)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"\x00\x01\x02" * 1000, "byte"),
        (b"abc \xff\xfe def" * 100, "byte"),
        (b"too short\n", "is too short to cut into training and validation: give a longer one"),
    ],
)
def test_bad_corpora_are_one_line_errors(content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "corpus.txt"
    path.write_bytes(content)
    run = tmp_path / "run"
    one_line_error(ebm("train", "--config", "nano", "--dataset", path, "--run", run, *TINY), words)
    assert not (run / "checkpoints").exists()


def test_a_block_beyond_the_corpus_is_a_one_line_error(corpus: Path, tmp_path: Path) -> None:
    run, arguments = tmp_path / "run", ("train", "--config", "nano", "--dataset", corpus)
    sizes = ("data.block_size=9000", "data.eval_context=9000")
    one_line_error(
        ebm(*arguments, "--run", run, *TINY, *sizes),
        r"training text of \S+corpus\.txt has \d+ tokens, a window of block size 9000 needs 9001: "
        r"give a longer text or a smaller data\.block_size\n",
    )
    assert not (run / "checkpoints").exists()


def test_an_existing_run_is_not_overwritten(trained: tuple[Path, Result], corpus: Path) -> None:
    run, _ = trained
    before = (run / "config.json").read_bytes()
    result = ebm("train", "--config", "nano", "--dataset", corpus, "--run", run, *TINY)
    one_line_error(result, "--resume")
    assert (run / "config.json").read_bytes() == before


def test_a_resumed_run_keeps_its_configuration(trained: tuple[Path, Result]) -> None:
    run, _ = trained
    one_line_error(ebm("train", "--resume", "--run", run, "model.dim=32"), "model.dim was 16")


def test_no_adapter_is_a_one_line_error(corpus: Path, tmp_path: Path) -> None:
    command = [
        str(Path(sys.executable).with_name("ebm")), "train", "--config", "nano", "--dataset",
        str(corpus), "--device", "vulkan", "--run", str(tmp_path / "run"), *TINY,
    ]  # fmt: skip
    hidden = {**os.environ, "VK_DRIVER_FILES": "/nonexistent", "VK_ICD_FILENAMES": "/nonexistent"}
    result = subprocess.run(command, env=hidden, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr.startswith("Error: no Vulkan GPU adapter was found; install")
    assert result.stderr.count("\n") == 1
