"""Output files: what they hold, whole or not at all, and what is wrong with them."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ebm_wgpu.errors import CheckpointError, DataError
from ebm_wgpu.generation.batch import GeneratedText, TokenEnergies
from ebm_wgpu.generation.output import TextsFile, framed


def text(prompt: str, written: str, energies: TokenEnergies | None = None) -> GeneratedText:
    return GeneratedText(prompt, written, (1, 2), "stop", 7, 0.5, 0.875, energies)


def write_texts(path: Path, texts: list[GeneratedText]) -> None:
    with TextsFile(path) as file:
        for each in texts:
            file.add(each)
    assert file.kept == len(texts)


def test_a_name_in_jsonl_gets_json_lines(tmp_path: Path) -> None:
    energies = TokenEnergies((0.5, 1.25), None)
    texts = [text("a\n", "é"), text("b", "c", energies)]
    path = tmp_path / "out.jsonl"
    write_texts(path, texts)
    plain = {
        "prompt": "a\n", "text": "é", "tokens": [1, 2], "reason": "stop", "seed": 7,
        "seconds": 0.5, "tokens_per_second": 4.0, "energy_per_token": 0.875,
    }  # fmt: skip
    more = {"token_energies": [0.5, 1.25], "model_energies": None}
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [
        plain,
        plain | {"prompt": "b", "text": "c"} | more,
    ]
    write_texts(path, [text("", "", TokenEnergies((0.5,), (-3.0,)))])
    assert json.loads(path.read_text())["model_energies"] == [-3.0]


def test_other_names_get_texts_with_separator_lines(tmp_path: Path) -> None:
    path = tmp_path / "out.txt"
    write_texts(path, [text("one", " two"), text("three\n", "four")])
    assert path.read_text() == "one two\n<|endoftext|>\nthree\nfour\n"
    assert framed("a", first=True) == "a\n"


def test_where_no_file_can_be_is_known_before_the_first_text(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"out\.txt cannot be written: .*none is no folder"):
        TextsFile(tmp_path / "none" / "out.txt")
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match="folder is a folder"):
        TextsFile(tmp_path / "folder")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


@pytest.mark.parametrize("name", ["out.txt", "out.jsonl"])
@pytest.mark.parametrize("count", [0, 1, 3])
@pytest.mark.parametrize("error", [KeyboardInterrupt, DataError])
def test_texts_that_were_finished_are_kept_whatever_ends_the_work(
    tmp_path: Path, name: str, count: int, error: type[BaseException]
) -> None:
    path, whole = tmp_path / name, tmp_path / f"whole-{name}"
    path.write_text("before")
    texts = [text(f"prompt {number}", "é") for number in range(count)]
    file = TextsFile(path)
    with pytest.raises(error, match="half way"), file:
        for each in texts:
            file.add(each)
        assert path.read_text() == "before"
        raise error("half way")
    assert file.kept == count
    if count:
        write_texts(whole, texts)
        assert path.read_bytes() == whole.read_bytes()
    else:
        assert path.read_text() == "before"
    assert not list(tmp_path.glob(".*"))


def test_a_disk_that_becomes_full_costs_the_text_that_does_not_fit(tmp_path: Path) -> None:
    """The limit on the size of files stands for the disk: a text is cut where it is reached."""
    path = tmp_path / "out.jsonl"
    texts = [text(f"prompt {number}", "x" * 1000) for number in range(10)]
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    file = TextsFile(path)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3700, before[1]))
    try:
        with pytest.raises(CheckpointError, match=r"out\.jsonl cannot be written"), file:
            for each in texts:
                file.add(each)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    found = [json.loads(line)["prompt"] for line in path.read_text().splitlines()]
    assert found == ["prompt 0", "prompt 1", "prompt 2"]
    assert file.kept == 3


def test_a_killed_process_leaves_its_texts_beside_the_file(tmp_path: Path) -> None:
    script = (
        "import os, pathlib, signal, sys, types\n"
        "from ebm_wgpu.generation.output import TextsFile\n"
        "with TextsFile(pathlib.Path(sys.argv[1])) as file:\n"
        "    for whole in ('one two', 'three four'):\n"
        "        file.add(types.SimpleNamespace(whole=whole))\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run([sys.executable, "-c", script, str(tmp_path / "out.txt")], check=False)
    assert killed.returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".tmp-out.txt.")
    assert left.read_text() == "one two\n<|endoftext|>\nthree four\n"
