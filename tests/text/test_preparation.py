import subprocess
import sys
import tracemalloc
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebm_wgpu.errors import DataError
from ebm_wgpu.text import preparation
from ebm_wgpu.text.cleaning import Cleaning
from ebm_wgpu.text.documents import DocumentRule
from ebm_wgpu.text.preparation import Selection, prepare_corpus

UNIQUE_BOTH = frozenset({"documents", "lines"})


def prepared(tmp_path, *texts, **options):
    """The output's text and the summary."""
    inputs = []
    for number, text in enumerate(texts):
        inputs.append(tmp_path / f"in{number}.txt")
        inputs[-1].write_text(text, encoding="utf-8", newline="")
    output = tmp_path / "out.txt"
    result = prepare_corpus(inputs, output, **options)
    text = output.read_bytes().decode()
    assert result.files == len(texts)
    assert result.bytes_in == sum(path.stat().st_size for path in inputs)
    assert result.bytes_out == len(text.encode())
    assert result.characters_out == len(text)
    assert result.lines_out == text.count("\n")
    return text, result


def test_documents_are_cleaned_and_marked(tmp_path):
    text, result = prepared(
        tmp_path,
        "\ufeff\r\n cafÃ©\x07 \r\n\r\nsecond<|endoftext|>\r\n<|endoftext|>\r\n\r\nthird",
        "\n\n",
        "e\u0301nd\n",
    )
    assert text == (" café\n\nsecond\n<|endoftext|>\nthird\n<|endoftext|>\nénd\n<|endoftext|>\n")
    assert (result.documents_in, result.documents_out) == (3, 3)
    assert (result.repaired_lines, result.normalized_lines) == (1, 1)
    assert (result.removed_characters, result.removed_marks) == (1, 1)


def test_another_mark_or_none(tmp_path):
    options = {"rule": DocumentRule("line")}
    assert prepared(tmp_path, "a\nb", cleaning=Cleaning(mark="%"), **options)[0] == "a\n%\nb\n%\n"
    assert prepared(tmp_path, "a\nb", cleaning=Cleaning(mark=""), **options)[0] == "a\nb\n"


DOCUMENTS = st.lists(
    st.text("ab \n\té\u0301İ\x0c\u2028<|>", max_size=30) | st.just("<|endoftext|>\n"), max_size=8
)


@given(DOCUMENTS, st.sampled_from(["keep", "trim", "collapse"]), st.booleans(), st.integers(1, 5))
def test_preparing_again_changes_nothing(tmp_path, documents, whitespace, lowercase, hold):
    cleaning = Cleaning(whitespace=whitespace, lowercase=lowercase)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preparation, "_HELD_CHARACTERS", hold)
        for unique in (frozenset(), UNIQUE_BOTH):
            options = {"cleaning": cleaning, "selection": Selection(unique)}
            text, first = prepared(tmp_path, "x\n", *documents, **options)
            again, second = prepared(tmp_path, text, **options)
            assert again == text
            assert second.documents_in == second.documents_out == first.documents_out


@given(st.lists(st.lists(st.sampled_from(["a", "b", "c", ""]), max_size=5), max_size=6))
def test_duplicates_are_dropped_as_a_set_would(tmp_path, documents):
    """Whether documents are held until they end, or written and cut off again."""
    documents = [["x"], *documents]
    texts = ["\n".join(lines).strip("\n") for lines in documents]
    texts = [text + "\n" for text in texts if text]
    expected = "".join(f"{text}<|endoftext|>\n" for text in dict.fromkeys(texts))
    source = "".join(f"{text}<|endoftext|>\n" for text in texts)
    for hold in (1, 1 << 20):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(preparation, "_HELD_CHARACTERS", hold)
            selection = Selection(frozenset({"documents"}))
            text, result = prepared(tmp_path, source, selection=selection)
            assert text == expected
            assert result.duplicate_documents == len(texts) - len(set(texts))
            selection = Selection(frozenset({"lines"}))
            text, result = prepared(tmp_path, source, selection=selection)
            kept = [line for line in text.split("\n") if line and line != "<|endoftext|>"]
            every = [line for text in texts for line in text.split("\n") if line]
            assert kept == list(dict.fromkeys(every))
            assert result.duplicate_lines == len(every) - len(kept)


def test_lines_left_out_leave_no_blank_lines_behind(tmp_path):
    source = "a\n\nb\n<|endoftext|>\nb\n\nc\n\n\na\n\nd\n\nb\n<|endoftext|>\na\nb\n"
    text, result = prepared(tmp_path, source, selection=Selection(frozenset({"lines"})))
    assert text == "a\n\nb\n<|endoftext|>\nc\n\n\nd\n<|endoftext|>\n"
    assert (result.documents_in, result.documents_out, result.duplicate_documents) == (3, 2, 1)
    assert result.duplicate_lines == 5


def test_short_documents_go_and_their_lines_count_for_nothing(tmp_path):
    selection = Selection(UNIQUE_BOTH, min_characters=6)
    source = "same\n<|endoftext|>\nsame\nother\n<|endoftext|>\n"
    text, result = prepared(tmp_path, source, selection=selection)
    assert text == "same\nother\n<|endoftext|>\n"
    assert result.short_documents == 1
    with pytest.raises(DataError, match=r"nothing is left .* 1 documents read, 1 too short"):
        prepared(tmp_path, "short\n", selection=Selection(min_characters=7))


def test_a_long_line_is_no_duplicate_of_its_parts(tmp_path):
    long = "word " * 30_000 + "end\n"
    selection = Selection(frozenset({"lines"}))
    text, _ = prepared(tmp_path, long + "end\n" + long, selection=selection)
    assert text == long + "end\n" + long + "<|endoftext|>\n"


def test_nothing_is_written_when_something_is_wrong(tmp_path):
    output = tmp_path / "out.txt"
    output.write_text("before")
    good, bad = tmp_path / "good.txt", tmp_path / "bad.txt"
    good.write_text("text\n")
    bad.write_bytes(b"text\0")
    for inputs, message in (
        ([good, bad], "bad.txt is binary"),
        ([tmp_path / "none.txt"], "cannot be read"),
        ([good, output], "is an input and the output"),
    ):
        with pytest.raises(DataError, match=message):
            prepare_corpus(inputs, output)
        assert output.read_text() == "before"
    assert {path.name for path in tmp_path.iterdir()} == {"out.txt", "good.txt", "bad.txt"}
    good.write_text("\n \n")
    with pytest.raises(DataError, match="nothing is left to write"):
        prepare_corpus([good], output)


@pytest.mark.parametrize("end", [" ", "\n"])
def test_memory_does_not_grow_with_the_text(tmp_path, monkeypatch, end):
    monkeypatch.setattr(preparation, "_HELD_CHARACTERS", 1 << 16)

    def peak(n_lines):
        path = tmp_path / "in.txt"
        lines = (f"line {number % 50} of some café's words{end}" for number in range(n_lines))
        path.write_text("".join(lines), encoding="utf-8")
        tracemalloc.start()
        prepare_corpus([path], tmp_path / "out.txt", selection=Selection(UNIQUE_BOTH))
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(100)
    assert peak(60_000) < peak(20_000) + (1 << 18)


COMMANDS = {
    "prepare": ["corpus", "prepare", "PATH", "--output", "FOLDER/out.txt"],
    "analyze": ["corpus", "analyze", "PATH", "--tokenizer", "FOLDER/char.json"],
    "train char": ["tokenizer", "train", "PATH", "--kind=char", "--output=FOLDER/char.json"],
    "train bpe": [
        *("tokenizer", "train", "PATH", "--kind=bpe", "--vocab-size=8192"),
        "--output=FOLDER/bpe.json",
    ],
}
PARAGRAPH = "Some words of a line, with a café – and nothing else to say about it.\n" * 100


def peak_memory(command, path, folder):
    """The most memory that a command takes in a process of its own, KiB."""
    code = (
        "import resource, sys\nfrom ebm_wgpu.cli import main\n"
        "main(sys.argv[1:], standalone_mode=False)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)"
    )
    places = {"PATH": str(path), "FOLDER": str(folder)}
    words = COMMANDS[command]
    for name, place in places.items():
        words = [word.replace(name, place) for word in words]
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=True
    )
    return int(done.stderr.split()[-1])


def write_corpus(path, n_bytes, new_words):
    """Documents of some digits and a paragraph, with as many words that stand nowhere before."""
    with path.open("w", encoding="utf-8") as file:
        for number in range(n_bytes // len(PARAGRAPH.encode())):
            rare = " ".join(f"word{number * new_words + k:x}" for k in range(new_words))
            file.write(f"{' '.join(str(number))} {rare}\n{PARAGRAPH}<|endoftext|>\n")


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_memory_stays_flat_on_a_gigabyte(tmp_path, command):
    """Peak memory of the process on 1 GB is that on 10 MB, within 64 MB."""
    path = tmp_path / "in.txt"
    write_corpus(path, 10_000_000, new_words=0)
    peak_memory("train char", path, tmp_path)
    least = peak_memory(command, path, tmp_path)
    write_corpus(path, 1_000_000_000, new_words=0)
    assert peak_memory(command, path, tmp_path) < least + 64 * 1024


@pytest.mark.slow
def test_byte_pairs_take_the_memory_of_distinct_words(tmp_path):
    """Where new words never end, memory grows with them, by less than a kilobyte each."""
    path = tmp_path / "in.txt"
    found = []
    for new_words in (0, 10, 20):
        write_corpus(path, 200_000_000, new_words)
        found.append(peak_memory("train bpe", path, tmp_path))
    words = 10 * (200_000_000 // len(PARAGRAPH.encode()))
    first, second = (1024 * (after - before) / words for before, after in pairwise(found))
    assert 0 < first < 1024
    assert 0 < second < 1024
