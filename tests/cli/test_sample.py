"""`ebm sample`: the text depends on the prompt, repeats with the seed, and damage is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from click.testing import Result

from .conftest import ebm
from .test_train import one_line_error

Trained = tuple[Path, Result]


def sample(run: Path, prompt: str, *options: object) -> str:
    arguments = ("--checkpoint", run, "--prompt", prompt, "--device", "numba", "--max-tokens", 12)
    result = ebm("sample", *arguments, *options)
    assert result.exit_code == 0, result.output
    return result.output


def last_checkpoint(run: Path) -> Path:
    step = json.loads((run / "checkpoints" / "last.json").read_text())["step"]
    return run / "checkpoints" / f"{step:08d}"


@pytest.mark.parametrize("latent", ["mean", "exact", "langevin"])
def test_the_seed_repeats_the_text(trained: Trained, latent: str) -> None:
    run, _ = trained
    first = sample(run, "the cat", "--seed", 3, "--latent", latent)
    assert first.startswith("the cat")
    assert first == sample(run, "the cat", "--seed", 3, "--latent", latent)
    assert first != sample(run, "the cat", "--seed", 4, "--latent", latent)


def test_the_continuation_depends_on_the_prompt(trained: Trained) -> None:
    run, _ = trained
    prompts = ("the cat", "over the river", "in the morning")
    written = [sample(run, prompt, "--temperature", 0.1).removeprefix(prompt) for prompt in prompts]
    assert len(set(written)) > 1


def test_streamed_and_whole_output_are_equal_and_files_too(
    trained: Trained, tmp_path: Path
) -> None:
    run, _ = trained
    prompt, output = tmp_path / "prompt.txt", tmp_path / "out.txt"
    prompt.write_text("a dog")
    arguments = ("sample", "--checkpoint", run, "--max-tokens", 8, "--device", "numba")
    streamed = ebm(*arguments, "--prompt", "a dog").output
    whole = ebm(*arguments, "--prompt-file", prompt, "--no-stream", "--output", output).output
    assert streamed == whole == output.read_text()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--prompt", "the cat " * 40], "tokens and the model reads 32"),
        (["--prompt", "x", "--top-p", "2"], "top_p=2.0 must be"),
        (["--prompt", "x", "--temperature", "-1"], "temperature=-1.0 must be"),
        (["--prompt", "x", "--max-tokens", "0"], "max_tokens=0 must be"),
        ([], "--prompt TEXT or --prompt-file FILE"),
    ],
)
def test_bad_requests_are_one_line_errors(trained: Trained, options: list[str], words: str) -> None:
    run, _ = trained
    result = ebm("sample", "--checkpoint", run, "--device", "numba", *options)
    assert result.exit_code == 1
    assert words in result.output
    assert len(result.output.strip().splitlines()) == 1


def test_no_run_is_a_one_line_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    one_line_error(ebm("sample", "--prompt", "x"), "holds no run")
    one_line_error(ebm("sample", "--prompt", "x", "--checkpoint", tmp_path), "is no run folder")


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(content)


def _renumber(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["splats"].attrs["encoding-version"] = "99"


def _poison(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["splats/mu"][0, 0] = np.nan


@pytest.mark.parametrize("damage", [_truncate, _flip, _renumber, _poison])
@pytest.mark.parametrize("command", ["sample", "splats"])
def test_damaged_splats_are_one_line_errors(
    trained: Trained, tmp_path: Path, damage: object, command: str
) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained[0], run)
    file = last_checkpoint(run) / "splats.h5"
    damage(file)  # type: ignore[operator]
    asked = {
        "sample": ("sample", "--checkpoint", last_checkpoint(run), "--prompt", "x"),
        "splats": ("splats", "info", file),
    }
    one_line_error(ebm(*asked[command]), r"splats\.h5")


def test_a_checkpoint_of_another_shape_names_the_tensor(trained: Trained, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained[0], run)
    config = json.loads((run / "config.json").read_text())
    config["model"]["expert_hidden"] = 24
    (run / "config.json").write_text(json.dumps(config))
    one_line_error(ebm("sample", "--checkpoint", run, "--prompt", "x"), r"tensor .*16\).*24\)")
