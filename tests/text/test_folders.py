import datasets
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebm_wgpu.errors import DataError
from ebm_wgpu.text import folders
from ebm_wgpu.text.folders import join_rows, read_text

ROWS = ["", " = Title = \n", " some text \n"]
TEXT = "\n = Title = \n some text \n"


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"plain\n", "plain\n"),
        (b"\xef\xbb\xbfmark", "mark"),
        (b"a\r\nb\rc\n", "a\nb\nc\n"),
        ("é \U0001f600 \u2028".encode(), "é \U0001f600 \u2028"),
    ],
)
def test_text_files_are_read_as_utf_8(tmp_path, data, text):
    path = tmp_path / "a.txt"
    path.write_bytes(data)
    assert read_text(path) == text


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b" \n\t\n", "is empty"),
        (b"abc\0def", "is binary: NUL at byte offset 3"),
        ("text".encode("utf-16"), "is binary: NUL at byte offset 3"),
        (b"abc\xe9 def", "is not UTF-8: invalid byte 0xe9 at byte offset 3"),
        (b"\xef\xbb\xbfabc\xff", "invalid byte 0xff at byte offset 6"),
        (b"cut \xe2\x82", "invalid byte 0xe2 at byte offset 4"),
    ],
)
def test_files_that_are_no_text_are_refused(tmp_path, data, message):
    path = tmp_path / "a.txt"
    path.write_bytes(data)
    with pytest.raises(DataError, match=message) as caught:
        read_text(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_files_and_folders_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"cannot be read \(No such file"):
        read_text(tmp_path / "none")
    with pytest.raises(DataError, match="is a folder"):
        read_text(tmp_path)
    with pytest.raises(DataError, match="is not a folder"):
        corpus_from_folder(tmp_path / "none", "train")
    with pytest.raises(DataError, match=r"no valid split in .*: expected wiki\.valid\.tokens"):
        corpus_from_folder(tmp_path, "valid")


@pytest.mark.parametrize(
    "name",
    ["wiki.valid.tokens", "wiki.valid.raw", "valid.txt", "wikitext-2.valid.txt", "validation.txt"],
)
def test_text_files_by_any_usual_name(tmp_path, name):
    (tmp_path / name).write_text(TEXT)
    assert corpus_from_folder(tmp_path, "valid") == TEXT


def test_two_candidates_are_not_guessed_between(tmp_path):
    for name in ("a.train.txt", "b.train.txt"):
        (tmp_path / name).write_text(TEXT)
    with pytest.raises(DataError, match=r"holds 2 files \*\.train\.txt"):
        corpus_from_folder(tmp_path, "train")
    (tmp_path / "train.txt").write_text("this one")
    assert corpus_from_folder(tmp_path, "train") == "this one"


def corpus_from_folder(folder, split):
    """All of the text at once."""
    return "".join(folders.corpus_from_folder(folder, split)())


def write_parquet(path, **columns):
    path.parent.mkdir(exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.table(columns), path)


@pytest.mark.parametrize("below", ["", "wikitext-103-v1/"])
def test_parquet_shards_are_joined_in_order(tmp_path, below):
    write_parquet(tmp_path / f"{below}train-00000-of-00002.parquet", text=ROWS[:1])
    write_parquet(tmp_path / f"{below}train-00001-of-00002.parquet", text=ROWS[1:], more=[1, 2])
    write_parquet(tmp_path / f"{below}validation-00000-of-00001.parquet", text=["v\n"])
    assert corpus_from_folder(tmp_path, "train") == TEXT
    assert corpus_from_folder(tmp_path, "valid") == "v\n"


def test_wrong_parquet_files_are_refused(tmp_path):
    path = tmp_path / "train.parquet"
    write_parquet(path, words=ROWS)
    with pytest.raises(DataError, match="not a Parquet file with a column 'text'"):
        corpus_from_folder(tmp_path, "train")
    write_parquet(path, text=["a\n", None])
    with pytest.raises(DataError, match="row 1 of column 'text' is of type NoneType"):
        corpus_from_folder(tmp_path, "train")
    write_parquet(path, text=["", ""])
    with pytest.raises(DataError, match=r"the train split in .* is empty"):
        corpus_from_folder(tmp_path, "train")
    path.write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match="not a Parquet file"):
        corpus_from_folder(tmp_path, "train")


def test_parquet_in_two_folders_is_not_guessed_between(tmp_path):
    for folder in ("wikitext-2-v1", "wikitext-103-v1"):
        write_parquet(tmp_path / folder / "train.parquet", text=ROWS)
    with pytest.raises(DataError, match="several folders below"):
        corpus_from_folder(tmp_path, "train")


def test_saved_data_sets(tmp_path):
    splits = {"train": ROWS, "validation": ["v\n"]}
    both = datasets.DatasetDict(
        {name: datasets.Dataset.from_dict({"text": rows}) for name, rows in splits.items()}
    )
    both.save_to_disk(str(tmp_path / "both"))
    assert corpus_from_folder(tmp_path / "both", "train") == TEXT
    assert corpus_from_folder(tmp_path / "both", "valid") == "v\n"
    with pytest.raises(DataError, match="no test split"):
        corpus_from_folder(tmp_path / "both", "test")
    one = datasets.Dataset.from_dict({"text": ROWS}, split=datasets.Split.TRAIN)
    one.save_to_disk(str(tmp_path / "one"))
    assert corpus_from_folder(tmp_path / "one", "train") == TEXT
    with pytest.raises(DataError, match="no valid split"):
        corpus_from_folder(tmp_path / "one", "valid")
    (tmp_path / "one" / "state.json").write_text("{")
    with pytest.raises(DataError, match="not a saved data set"):
        corpus_from_folder(tmp_path / "one", "train")


@given(st.lists(st.text(alphabet="ab ", max_size=5), max_size=6))
def test_rows_with_and_without_newline_join_alike(rows):
    text = "".join(row + "\n" for row in rows)
    assert join_rows(rows) == join_rows(row + "\n" for row in rows) == text
