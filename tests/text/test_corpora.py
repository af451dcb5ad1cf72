import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebm_wgpu.errors import DataError
from ebm_wgpu.text import corpora, streaming
from ebm_wgpu.text.corpora import CORPORA, load_corpus, split_text, word_count


def test_wikitext_2_has_the_published_number_of_words():
    valid = load_corpus("wikitext-2", "valid")
    assert (len(valid.split()), valid.count("\n")) == (213_886, 3_760)
    assert word_count(valid) == 217_646
    train = load_corpus("wikitext-2")
    assert (len(train.split()), train.count("\n")) == (2_051_910, 36_125)
    assert len(set(train.split())) == 33_277
    assert valid.startswith(" \n = Homarus gammarus = \n")


def test_shakespeare_trains_on_the_first_nine_tenths():
    train, valid = load_corpus("shakespeare"), load_corpus("shakespeare", "valid")
    assert (len(train), len(valid)) == (1_003_854, 111_540)
    assert train.startswith("First Citizen:\n")
    assert len(set(train + valid)) == 65


@pytest.mark.parametrize(
    ("name", "split", "message"),
    [
        ("wikitext-2", "test", r"is not embedded: give a folder with wiki\.test\.tokens"),
        ("shakespeare", "test", "shakespeare has no test split, only train, valid"),
        ("wikitext-2", "dev", "unknown split 'dev'; choose one of train, valid, test"),
        ("wikitext2", "train", r"no corpus or file 'wikitext2' \(did you mean wikitext-2\?\)"),
        (
            "/nowhere/x.txt",
            "train",
            "give one of wikitext-2, wikitext-103, shakespeare or the path",
        ),
    ],
)
def test_what_is_not_there_is_one_line_with_the_remedy(name, split, message):
    with pytest.raises(DataError, match=message) as caught:
        load_corpus(name, split)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", CORPORA)
def test_a_local_folder_replaces_any_named_corpus(name, tmp_path):
    (tmp_path / "wiki.test.tokens").write_text(" = Title = \n")
    assert load_corpus(name, "test", data_dir=tmp_path) == " = Title = \n"
    with pytest.raises(DataError, match="no train split in"):
        load_corpus(name, "train", data_dir=tmp_path)


def test_last_lines_of_a_file_validate(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("".join(f"line {index}\n" for index in range(100)))
    assert load_corpus(path, "train").endswith("line 94\n")
    assert load_corpus(path, "valid") == "".join(f"line {index}\n" for index in range(95, 100))
    assert load_corpus("a.txt", "valid", data_dir=tmp_path) == load_corpus(path, "valid")
    with pytest.raises(DataError, match="has no test split, only train, valid"):
        load_corpus(path, "test")


def test_a_validation_file_leaves_the_corpus_whole(tmp_path):
    path, valid = tmp_path / "a.txt", tmp_path / "v.txt"
    path.write_text("one\n" * 100)
    valid.write_text("two\n")
    assert load_corpus(path, "train", valid_path=valid) == "one\n" * 100
    assert load_corpus(path, "valid", valid_path=valid) == "two\n"
    assert load_corpus("shakespeare", "valid", valid_path=valid) == "two\n"
    with pytest.raises(DataError, match="has no test split, only train:"):
        load_corpus(path, "test", valid_path=valid)


def test_a_folder_is_a_corpus(tmp_path):
    for split in ("train", "valid", "test"):
        (tmp_path / f"{split}.txt").write_text(split)
    assert [load_corpus(tmp_path, split) for split in ("train", "valid", "test")] == [
        "train",
        "valid",
        "test",
    ]


@pytest.mark.parametrize("text", ["x", "word", "one two", "\n" * 40, "a" + "\n" * 30])
def test_texts_too_short_to_split_are_refused(tmp_path, text):
    path = tmp_path / "short.txt"
    path.write_text(text + "x" * (not text.strip()))
    with pytest.raises(DataError, match=r"short\.txt: a text of .* is too short to cut"):
        load_corpus(path)


@given(st.text(alphabet="ab \n", max_size=300), st.floats(0.01, 0.5))
def test_splitting_loses_nothing_and_cuts_no_word(text, share):
    try:
        train, valid = split_text(text, share)
    except DataError:
        return
    assert train + valid == text
    assert word_count(train) + word_count(valid) == word_count(text)
    n_lines = text.count("\n") + (not text.endswith("\n"))
    if n_lines >= 20:
        assert train.endswith("\n")
        n_valid = valid.count("\n") + (not valid.endswith("\n"))
        assert n_valid == max(1, round(n_lines * share))


@given(st.lists(st.lists(st.sampled_from(["a", "bc", "<unk>"]), max_size=5), max_size=8))
def test_word_count_is_words_and_line_ends(lines):
    text = "".join(" ".join(line) + "\n" for line in lines)
    assert word_count(text) == sum(len(line) + 1 for line in lines)


def split_whole(text, share):
    """`split_text` as it reads, with the whole text at hand."""
    n_lines = text.count("\n") + (not text.endswith("\n"))
    if n_lines < 20:
        cut = int(len(text) * (1.0 - share))
        while cut < len(text) and not text[cut].isspace():
            cut += 1
        return text[:cut], text[cut:]
    lines = text.splitlines(keepends=True)
    keep = n_lines - max(1, round(n_lines * share))
    return "".join(lines[:keep]), "".join(lines[keep:])


LONG_TEXTS = st.lists(st.text(alphabet="ab \n", max_size=12), max_size=60)


@given(LONG_TEXTS, st.integers(1, 9), st.floats(0.01, 0.5))
def test_a_file_is_cut_where_its_whole_text_would_be(tmp_path, lines, read, share):
    """Whatever the pieces in which it is read."""
    path = tmp_path / "a.txt"
    path.write_text("\n".join(lines))
    train, valid = split_whole(path.read_text(), share)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streaming, "_READ_BYTES", read)
        patch.setattr(corpora, "VALID_SHARE", share)
        if not (train.strip() and valid.strip()):
            with pytest.raises(DataError, match=r"is empty|is too short to cut"):
                load_corpus(path)
            return
        assert [load_corpus(path, split) for split in ("train", "valid")] == [train, valid]
        assert split_text(path.read_text(), share) == (train, valid)
