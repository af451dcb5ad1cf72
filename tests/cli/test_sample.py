"""`ebm sample`: the text depends on the prompt, repeats with the seed, and damage is refused."""

from __future__ import annotations

import itertools
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import h5py
import numpy as np
import pytest
from click.testing import Result

from ebm_wgpu.cli import _written
from ebm_wgpu.errors import DeviceError
from ebm_wgpu.generation.writer import TokenWriter, WrittenToken
from ebm_wgpu.text.tokenizers import make_tokenizer

from .conftest import ebm, last_checkpoint, one_line_error

Trained = tuple[Path, Result]


def sample(run: Path, prompt: str, *options: object) -> str:
    arguments = ("--checkpoint", run, "--prompt", prompt, "--device", "numba", "--max-tokens", 12)
    result = ebm("sample", *arguments, *options)
    assert result.exit_code == 0, result.output
    return result.stdout


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
    prompt.write_text("a dog\n")
    arguments = ("sample", "--checkpoint", run, "--max-tokens", 8, "--device", "numba")
    streamed = ebm(*arguments, "--prompt", "a dog").stdout
    whole = ebm(*arguments, "--prompt-file", prompt, "--no-stream", "--output", output).stdout
    assert streamed == whole == output.read_text()
    assert streamed.startswith("a dog")


def test_pieces_are_printed_while_tokens_are_written(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    write, echo = TokenWriter.write, click.echo

    def watched_write(writer: TokenWriter) -> list[WrittenToken]:
        events.append("token")
        return write(writer)

    def watched_echo(message: object = None, **options: object) -> None:
        if not options.get("err"):
            events.append("print")
        echo(message, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(TokenWriter, "write", watched_write)
    monkeypatch.setattr(click, "echo", watched_echo)
    sample(trained[0], "the cat", "--temperature", 0)
    assert events[:2] == ["print", "token"]
    assert sum(pair == ("print", "token") for pair in itertools.pairwise(events)) > 6


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_file_of_prompts_gets_the_texts_they_get_alone(trained: Trained, tmp_path: Path) -> None:
    run, _ = trained
    prompts = ["the cat", "over the river and", "a"]
    file, output = tmp_path / "prompts.txt", tmp_path / "out.jsonl"
    file.write_text("the cat\n\nover the river and\na")
    result = ebm(
        "sample", "--checkpoint", run, "--device", "numba", "--max-tokens", 12,
        "--prompt-file", file, "--num-samples", 2, "--output", output,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    found = records(output)
    assert [(record["prompt"], record["seed"]) for record in found] == [
        (prompt, seed) for prompt in prompts for seed in (0, 1)
    ]
    wholes = [record["prompt"] + record["text"] + "\n" for record in found]
    assert result.stdout == "<|endoftext|>\n".join(wholes)
    for record, whole in zip(found, wholes, strict=True):
        assert whole == sample(run, record["prompt"], "--seed", record["seed"])
        assert (len(record["tokens"]), record["reason"]) == (12, "length")
        assert record["tokens_per_second"] == pytest.approx(12 / record["seconds"])
    assert re.fullmatch(speed_line("6 texts, ", 72), result.stderr)


def speed_line(texts: str, tokens: int) -> str:
    """The pattern of the line about the speed."""
    return (
        rf"{texts}{tokens} tokens drawn in [\d.]+ s: [\d,.]+ tokens/s, first token after [\d.]+ s\n"
    )


def test_the_speed_is_that_of_all_tokens_drawn(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Discarded continuations count, and the first token is that of the command."""
    clock = itertools.count()
    monkeypatch.setattr(_written, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    arguments = ("--checkpoint", trained[0], "--device", "numba", "--prompt", "the cat")
    arguments = (*arguments, "--max-tokens", 5, "--best-of", 3, "--batch-size", 1)
    result = ebm("sample", *arguments)
    assert result.exit_code == 0, result.output
    # Asked at the start, at the first token, and at the end.
    expected = "15 tokens drawn in 2.00 s: 7.5 tokens/s, first token after 1.000 s\n"
    assert result.stderr == expected


def stopping_after(count: int, error: BaseException) -> Callable[[TokenWriter], list[WrittenToken]]:
    """`TokenWriter.write` that raises when it was called `count` times."""
    write, calls = TokenWriter.write, itertools.count()

    def stopping(writer: TokenWriter) -> list[WrittenToken]:
        if next(calls) == count:
            raise error
        return write(writer)

    return stopping


@pytest.mark.parametrize(
    ("error", "last"),
    [(KeyboardInterrupt(), "Aborted!"), (DeviceError("the GPU is gone"), "Error: the GPU is gone")],
)
def test_what_is_done_is_kept_when_the_rest_is_not(
    trained: Trained,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    last: str,
) -> None:
    file, output = tmp_path / "prompts.txt", tmp_path / "out.jsonl"
    file.write_text("the cat\na dog\nthe moon\nthe river\n")
    arguments = ("sample", "--checkpoint", trained[0], "--device", "numba", "--prompt-file", file)
    arguments = (*arguments, "--max-tokens", 4, "--batch-size", 2, "--output", output)
    assert ebm(*arguments).exit_code == 0
    every = [(record["prompt"], record["text"]) for record in records(output)]
    # In the second batch of two prompts.
    monkeypatch.setattr(TokenWriter, "write", stopping_after(6, error))
    result = ebm(*arguments)
    assert result.exit_code == 1
    assert f"{output} holds the 2 texts that were finished" in result.stderr
    assert result.stderr.splitlines()[-1] == last
    assert [(record["prompt"], record["text"]) for record in records(output)] == every[:2]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.jsonl", "prompts.txt"]


def test_a_file_that_cannot_be_written_is_known_before_the_model_is_read(tmp_path: Path) -> None:
    output = tmp_path / "none" / "out.txt"
    arguments = ("--checkpoint", tmp_path / "no run", "--prompt", "x", "--output", output)
    one_line_error(ebm("sample", *arguments), r"out\.txt cannot be written: .*none is no folder")


def test_a_file_can_be_one_prompt_of_several_lines(trained: Trained, tmp_path: Path) -> None:
    file = tmp_path / "prompt.txt"
    file.write_text("the cat\n\na dog\n")
    arguments = ("--checkpoint", trained[0], "--device", "numba", "--max-tokens", 12)
    result = ebm("sample", *arguments, "--prompt-file", file, "--prompts", "file")
    assert result.stdout == sample(trained[0], "the cat\n\na dog")


def test_a_text_ends_before_a_stop_string(trained: Trained) -> None:
    run, _ = trained
    whole = sample(run, "the cat", "--max-tokens", 30).removesuffix("\n")
    stop = whole.removeprefix("the cat")[9:13]
    ended = sample(run, "the cat", "--max-tokens", 30, "--stop", "zebra", "--stop", stop)
    assert ended == "the cat" + whole.removeprefix("the cat").partition(stop)[0] + "\n"


def test_energies_are_shown_and_rank_continuations(trained: Trained, tmp_path: Path) -> None:
    run, _ = trained
    output = tmp_path / "out.jsonl"
    arguments = ("--energies", "--output", output, "--num-samples")
    sample(run, "the cat", *arguments, 4)
    every = records(output)
    assert len({record["text"] for record in every}) > 1
    shown = sample(run, "the cat", *arguments, 1, "--best-of", 4)
    (best,) = records(output)
    assert best["tokens"] == min(every, key=lambda record: record["energy_per_token"])["tokens"]
    assert best["energy_per_token"] == pytest.approx(np.mean(best["token_energies"]))
    lines = shown.splitlines()
    table = lines[[line.split() for line in lines].index(["-log", "p", "energy", "token"]) + 1 :]
    assert len(table) == 13
    for line, token, own in zip(
        table, best["token_energies"], best["model_energies"], strict=False
    ):
        assert line.startswith(f"{token:10.4f} {own:10.4f}  '")
    means = f"{best['energy_per_token']:10.4f} {np.mean(best['model_energies']):10.4f}"
    assert table[-1] == f"{means}  mean, nats a token"


def test_a_text_read_first_is_remembered(trained: Trained, tmp_path: Path) -> None:
    run, _ = trained
    file = tmp_path / "read.txt"
    file.write_text("the moon ran over the cat . " * 30)
    alone = sample(run, "the moon", "--seed", 2)
    read = sample(run, "the moon", "--seed", 2, "--read", file)
    assert read.startswith("the moon") and read != alone
    assert read == sample(run, "the moon", "--seed", 2, "--read", file)
    assert read != sample(run, "the moon", "--seed", 2, "--memory", 64)
    # A prompt that is longer than the context is read by parts, and the memory has all of it.
    long = "the cat sat on the mat and " * 20
    assert sample(run, long, "--memory", 64).startswith(long)
    arguments = ("sample", "--checkpoint", run, "--device", "numba", "--max-tokens", 2)
    one_line_error(ebm(*arguments, "--prompt", long), "tokens and the model reads 32")
    drawn = ebm(*arguments, "--prompt", "the", "--memory", 64, "--latent", "exact")
    one_line_error(drawn, "sampler.latent=exact cannot .* beside an online memory: use --latent")


@pytest.mark.parametrize(
    ("content", "options", "words"),
    [
        ("", [], r"prompts\.txt is empty: give a file that holds text"),
        ("the\n" + "the cat " * 40, [], r"prompts\.txt line 2 has \d+ tokens and the model reads"),
        ("the", ["--prompts", "jsonl"], r"prompts\.txt line 1 is not JSON"),
        ("the", ["--prompt", "x"], "give the text to go on from"),
        ("the", ["--output", "none/out.txt"], r"none/out\.txt cannot be written"),
    ],
)
def test_bad_files_are_one_line_errors(
    trained: Trained,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    content: str,
    options: list[str],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "prompts.txt"
    file.write_text(content)
    arguments = ("--checkpoint", trained[0], "--device", "numba", "--prompt-file", file)
    one_line_error(ebm("sample", *arguments, "--max-tokens", 2, *options), words)


def test_a_run_with_no_tokenizer_or_another_one_is_a_one_line_error(
    trained: Trained, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained[0], run)
    arguments = ("sample", "--checkpoint", run, "--device", "numba", "--prompt", "x")
    make_tokenizer("char", "the cat sat").save(run / "tokenizer.json")
    one_line_error(ebm(*arguments), r"tokenizer\.json is not the one that .* was trained with")
    (run / "tokenizer.json").unlink()
    one_line_error(ebm(*arguments), r"tokenizer\.json cannot be read .*check the path")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--prompt", "the cat " * 40], "tokens and the model reads 32"),
        (["--prompt", "x", "--top-p", "2"], "top_p=2.0 must be"),
        (["--prompt", "x", "--temperature", "-1"], "temperature=-1.0 must be"),
        (["--prompt", "x", "--max-tokens", "0"], "max_tokens=0 must be"),
        (["--prompt", "x", "--num-samples", "0"], "num_samples=0 must be"),
        (["--prompt", "x", "--best-of", "2", "--temperature", "0"], "the same text 2 times"),
        (["--prompt", "x", "--stop", ""], "a stop string is empty"),
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
