import json
import math
import subprocess
import sys

import pytest

from ebm_wgpu import files
from ebm_wgpu.errors import CheckpointError


def test_write_atomically_replaces_the_whole_and_leaves_nothing(tmp_path):
    path = tmp_path / "a.json"
    files.write_atomically(path, b"old and long")
    files.write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_keeps_the_old_content(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    files.write_atomically(path, b"old")

    def fail(descriptor: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(files.os, "fsync", fail)
    with pytest.raises(OSError, match="no space"):
        files.write_atomically(path, b"new")
    assert path.read_bytes() == b"old"


def test_replacing_is_all_or_nothing(tmp_path):
    path = tmp_path / "a.bin"
    for content in (b"old", b"new"):
        with files.replacing(path) as temporary:
            temporary.write_bytes(content)
            assert temporary.name.startswith(files.TEMPORARY_PREFIX)
            assert not path.exists() or path.read_bytes() == b"old"
        assert path.read_bytes() == content
    with pytest.raises(KeyboardInterrupt), files.replacing(path) as temporary:
        temporary.write_bytes(b"half")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_remove_leftovers_takes_only_temporary_names(tmp_path):
    (tmp_path / f"{files.TEMPORARY_PREFIX}00000003").mkdir()
    (tmp_path / f"{files.TEMPORARY_PREFIX}00000003" / "x").write_bytes(b"1")
    (tmp_path / f"{files.TEMPORARY_PREFIX}last.json").write_bytes(b"1")
    (tmp_path / "00000002").mkdir()
    assert len(files.remove_leftovers(tmp_path)) == 2
    assert [p.name for p in tmp_path.iterdir()] == ["00000002"]


def test_remove_folder_renames_first(tmp_path, monkeypatch):
    folder = tmp_path / "00000002"
    folder.mkdir()
    (folder / "x").write_bytes(b"1")

    def crash(path, **options):
        if path.exists():
            raise KeyboardInterrupt

    monkeypatch.setattr(files.shutil, "rmtree", crash)
    with pytest.raises(KeyboardInterrupt):
        files.remove_folder(folder)
    assert not folder.exists()
    monkeypatch.undo()
    files.remove_leftovers(tmp_path)
    assert not list(tmp_path.iterdir())


def test_digests(tmp_path):
    path = tmp_path / "abc"
    path.write_bytes(b"abc")
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, B.1
    assert files.file_digest(path) == known
    assert files.json_digest({"a": 1, "b": [2]}) == files.json_digest({"b": [2], "a": 1})
    assert files.json_digest({"a": 1}) != files.json_digest({"a": 2})


def test_a_lock_keeps_other_processes_out_until_it_ends(tmp_path):
    path = tmp_path / "run.lock"
    code = (
        "import pathlib, sys; from ebm_wgpu.files import locked\n"
        f"with locked(pathlib.Path({str(path)!r})): pass"
    )
    with files.locked(path):
        inside = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    after = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "is in use by another process" in inside.stderr
    assert after.returncode == 0, after.stderr


def test_a_lock_is_refused_within_the_process_too(tmp_path):
    path = tmp_path / "run.lock"
    with files.locked(path), pytest.raises(CheckpointError, match="in use"), files.locked(path):
        pass


def test_numbers_that_json_does_not_have_become_null_and_the_rest_stays() -> None:
    document = {"a": math.nan, "b": [1, (math.inf, -2.5)], "c": {"d": -math.inf, "e": "nan"}}
    found = files.finite_numbers(document)
    assert found == {"a": None, "b": [1, [None, -2.5]], "c": {"d": None, "e": "nan"}}
    assert files.parse_json(json.dumps(found, allow_nan=False)) == found
