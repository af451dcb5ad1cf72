import hashlib
import json
import lzma
import random
import shutil
from importlib.resources import files
from pathlib import Path

import pytest

from ebm_wgpu.errors import DataError
from ebm_wgpu.text.embedded import embedded_files, read_embedded

DATA = Path(str(files("ebm_wgpu.data")))


@pytest.fixture
def folder(tmp_path):
    """A data folder of one small file, to be damaged."""
    shutil.copy(DATA / "gpt2-merges.txt.xz", tmp_path)
    entry = json.loads((DATA / "manifest.json").read_text())["gpt2-merges.txt"]
    (tmp_path / "manifest.json").write_text(json.dumps({"gpt2-merges.txt": entry}))
    return tmp_path


def test_manifest_lists_every_file_with_source_and_licence():
    entries = embedded_files()
    assert {entry.file for entry in entries.values()} == {path.name for path in DATA.glob("*.xz")}
    assert all(entry.source and entry.licence for entry in entries.values())
    sources = (DATA / "SOURCES.md").read_text()
    assert all(f"`{entry.file}`" in sources for entry in entries.values())


@pytest.mark.parametrize("name", embedded_files())
def test_sizes_and_digests_of_both_forms_match_the_manifest(name):
    entry = embedded_files()[name]
    packed = (DATA / entry.file).read_bytes()
    assert len(packed) == entry.compressed_bytes
    assert hashlib.sha256(packed).hexdigest() == entry.compressed_sha256
    raw = read_embedded(name)
    assert len(raw) == entry.raw_bytes
    assert hashlib.sha256(raw).hexdigest() == entry.raw_sha256


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(DataError, match=r"no embedded file 'x'; there are gpt2-merges\.txt, "):
        read_embedded("x")


def test_missing_file_and_manifest(folder):
    (folder / "gpt2-merges.txt.xz").unlink()
    with pytest.raises(DataError, match="missing or unreadable: reinstall"):
        read_embedded("gpt2-merges.txt", folder)
    (folder / "manifest.json").unlink()
    with pytest.raises(DataError, match=r"manifest\.json cannot be read \(FileNotFoundError\)"):
        read_embedded("gpt2-merges.txt", folder)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": 1}', '{"a": {"file": "b"}}', "\xff"])
def test_damaged_manifest(folder, text):
    (folder / "manifest.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=r"manifest\.json cannot be read"):
        read_embedded("gpt2-merges.txt", folder)


def test_other_content_of_the_same_form_is_refused(folder):
    (folder / "gpt2-merges.txt.xz").write_bytes(lzma.compress(b"other"))
    with pytest.raises(DataError, match="does not match its SHA-256"):
        read_embedded("gpt2-merges.txt", folder)


def test_truncated_and_bit_flipped_files_are_refused(folder):
    path = folder / "gpt2-merges.txt.xz"
    packed = path.read_bytes()
    rng = random.Random(0)
    for size in (0, 10, len(packed) // 2, len(packed) - 1):
        path.write_bytes(packed[:size])
        with pytest.raises(DataError, match="damaged"):
            read_embedded("gpt2-merges.txt", folder)
    for _ in range(20):
        bad = bytearray(packed)
        bad[rng.randrange(len(bad))] ^= 1 << rng.randrange(8)
        path.write_bytes(bad)
        with pytest.raises(DataError, match=r"reinstall ebm-wgpu$"):
            read_embedded("gpt2-merges.txt", folder)
