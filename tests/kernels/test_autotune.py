"""Choices by timing: made once, kept in a file, and never in the way of the work."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ebm_wgpu.errors import DeviceError
from ebm_wgpu.files import locked
from ebm_wgpu.kernels import KernelDevice
from ebm_wgpu.kernels.autotune import VARIABLE, VERSION, Autotuner, is_wanted, tuner_of

TIMES = {"slow": 3.0, "fast": 1.0, "broken": float("inf")}


def fail(candidate: str) -> float:
    raise AssertionError(f"{candidate} was measured")


def tuner(path: Path | None, adapter: str = "an adapter") -> Autotuner:
    return Autotuner(adapter, True, path)


def test_the_fastest_is_chosen_and_measured_once(tmp_path: Path) -> None:
    asked = []

    def seconds(candidate: str) -> float:
        asked.append(candidate)
        return TIMES[candidate]

    chooser = tuner(tmp_path / "file.json")
    assert chooser.choose("key", list(TIMES), seconds) == "fast"
    assert asked == list(TIMES)
    assert chooser.choose("key", list(TIMES), fail) == "fast"


def test_another_tuner_starts_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "file.json"
    tuner(path).choose("one", ["slow", "fast"], TIMES.__getitem__)
    second = tuner(path)
    second.choose("two", ["fast", "broken"], TIMES.__getitem__)
    third = tuner(path)
    assert third.choose("one", ["slow", "fast"], fail) == "fast"
    assert third.choose("two", ["broken", "fast"], fail) == "fast"


def test_choices_of_two_processes_are_joined(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    first, second = tuner(path), tuner(path)
    for chooser, key in ((first, "a"), (second, "b"), (first, "c")):
        chooser.choose(key, ["slow", "fast"], TIMES.__getitem__)
    assert json.loads(path.read_text())["choices"] == dict.fromkeys("abc", "fast")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b'{"version": 1}',
        json.dumps({"version": VERSION, "adapter": "an adapter", "choices": {"key": 7}}).encode(),
        json.dumps(
            {"version": VERSION + 1, "adapter": "an adapter", "choices": {"key": "slow"}}
        ).encode(),
        json.dumps({"version": VERSION, "adapter": "another", "choices": {"key": "slow"}}).encode(),
    ],
)
def test_a_damaged_or_foreign_file_is_replaced(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file.json"
    path.write_bytes(content)
    assert tuner(path).choose("key", ["slow", "fast"], TIMES.__getitem__) == "fast"
    assert json.loads(path.read_text()) == {
        "version": VERSION,
        "adapter": "an adapter",
        "choices": {"key": "fast"},
    }


def test_a_remembered_name_that_is_no_candidate_is_measured_anew(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    tuner(path).choose("key", ["broken", "slow"], TIMES.__getitem__)
    assert tuner(path).choose("key", ["broken", "fast"], TIMES.__getitem__) == "fast"


def test_nothing_is_measured_without_need() -> None:
    assert tuner(None).choose("key", ["slow"], fail) == "slow"
    assert Autotuner("an adapter", False, None).choose("key", ["slow", "fast"], fail) == "slow"


def test_where_all_fail_the_first_is_taken_and_not_remembered(tmp_path: Path) -> None:
    chooser = tuner(tmp_path / "file.json")
    assert chooser.choose("key", ["broken", "worse"], lambda name: float("inf")) == "broken"
    assert chooser.choose("key", ["broken", "fast"], TIMES.__getitem__) == "fast"


def test_a_folder_that_cannot_be_made_does_not_matter(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    chooser = tuner(tmp_path / "file" / "below.json")
    assert chooser.choose("key", ["slow", "fast"], TIMES.__getitem__) == "fast"
    assert chooser.choose("key", ["slow", "fast"], fail) == "fast"


def test_a_locked_file_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    chooser = tuner(path)
    with locked(path.with_suffix(".lock")):
        assert chooser.choose("one", ["slow", "fast"], TIMES.__getitem__) == "fast"
        assert not path.exists()
    chooser.choose("two", ["slow", "fast"], TIMES.__getitem__)
    assert json.loads(path.read_text())["choices"] == {"one": "fast", "two": "fast"}


@pytest.mark.parametrize(
    ("setting", "software", "wanted"),
    [
        ("", True, False),
        ("", False, True),
        ("0", False, False),
        ("1", True, True),
    ],
)
def test_the_environment_decides(
    monkeypatch: pytest.MonkeyPatch, setting: str, software: bool, wanted: bool
) -> None:
    monkeypatch.setenv(VARIABLE, setting)
    assert is_wanted(software) is wanted


def test_an_unknown_setting_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "yes")
    with pytest.raises(DeviceError, match="EBM_WGPU_AUTOTUNE='yes' must be 0, 1 or unset"):
        is_wanted(False)


def test_mirrors_are_never_measured(
    monkeypatch: pytest.MonkeyPatch, numba_device: KernelDevice
) -> None:
    monkeypatch.setenv(VARIABLE, "1")
    assert not tuner_of(numba_device).enabled


def test_each_adapter_has_its_own_file(
    monkeypatch: pytest.MonkeyPatch, wgpu_device: KernelDevice
) -> None:
    monkeypatch.setenv(VARIABLE, "1")
    chooser = tuner_of(wgpu_device)
    assert chooser.enabled
    assert chooser.adapter == wgpu_device.description
    assert chooser.path is not None
    assert chooser.path.parent.name == "ebm-wgpu"


def test_a_killed_process_leaves_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    program = (
        "import os, sys, pathlib\n"
        "from ebm_wgpu.kernels.autotune import Autotuner\n"
        "t = Autotuner('an adapter', True, pathlib.Path(sys.argv[1]))\n"
        "t.choose('one', ['slow', 'fast'], {'slow': 2.0, 'fast': 1.0}.__getitem__)\n"
        "t.choose('two', ['slow', 'fast'], lambda name: os._exit(9))\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], env=os.environ, check=False)
    assert done.returncode == 9
    assert tuner(path).choose("one", ["slow", "fast"], fail) == "fast"
    assert tuner(path).choose("two", ["slow", "fast"], TIMES.__getitem__) == "fast"
