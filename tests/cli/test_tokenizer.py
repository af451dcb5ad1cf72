"""`ebm tokenizer` as a user runs it."""

import json

import pytest
from click.testing import CliRunner

from ebm_wgpu.cli import main
from ebm_wgpu.text.corpora import load_corpus
from ebm_wgpu.text.tokenizers import load_tokenizer, make_tokenizer

SAMPLE = load_corpus("wikitext-2", "valid")[:60_000].rpartition("\n")[0] + "\n"


def run(*arguments: object, status: int = 0, given: str | None = None) -> str:
    result = CliRunner().invoke(main, ["tokenizer", *map(str, arguments)], input=given)
    assert result.exit_code == status, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.output


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "text.txt"
    path.write_text(SAMPLE, encoding="utf-8")
    return path


@pytest.mark.parametrize(("kind", "size"), [("bpe", 400), ("char", None), ("word", 500)])
def test_a_trained_file_is_that_of_a_run(corpus, tmp_path, kind, size):
    output = tmp_path / "tokenizer.json"
    options = () if size is None else ("--vocab-size", size)
    printed = run("train", corpus, "--output", output, "--kind", kind, *options)
    expected = make_tokenizer(kind, SAMPLE, size)
    loaded = load_tokenizer(output)
    assert loaded.fingerprint == expected.fingerprint
    assert printed == f"{output}: {kind}, {expected.vocab_size:,} tokens\n"


def test_train_says_when_the_text_gives_fewer_tokens(tmp_path):
    text, output = tmp_path / "a.txt", tmp_path / "t.json"
    text.write_text("ab ab\n")
    printed = run("train", text, "--output", output)
    assert printed == f"{output}: bpe, 258 tokens of 16,384 asked for\n"


def test_special_tokens_encode_and_decode(corpus, tmp_path):
    output = tmp_path / "t.json"
    run("train", corpus, "--output", output, "--kind", "char", "--special", "<|endoftext|>")
    tokenizer = load_tokenizer(output)
    ids = run("encode", output, "the <|endoftext|>").split()
    assert [int(index) for index in ids] == tokenizer.encode("the <|endoftext|>").tolist()
    assert len(ids) == 5
    assert run("decode", output, *ids) == "the <|endoftext|>\n"
    record = json.loads(run("info", output, "--json"))
    assert record["kind"] == "char"
    assert record["special_tokens"] == {"<|endoftext|>": int(ids[-1])}
    assert record["fingerprint"] == tokenizer.fingerprint
    assert "<|endoftext|>" in record["longest"]


def test_gpt2_is_at_hand():
    assert run("encode", "gpt2", "Hello world") == "15496 995\n"
    assert run("encode", "gpt2", "-", given="Hello world") == "15496 995\n"
    assert run("decode", "gpt2", "-", given="15496\n995\n") == "Hello world\n"
    assert (
        run("encode", "gpt2", "Hello world", "--tokens") == "   15496 'Hello'\n     995 ' world'\n"
    )
    assert json.loads(run("encode", "gpt2", "Hello", "--json")) == [{"id": 15496, "text": "Hello"}]
    printed = run("info", "gpt2")
    assert "gpt2, 50,257 tokens" in printed
    assert "a text begins after id 198, '\\n'" in printed
    assert "special tokens: <|endoftext|> 50256" in printed


def test_a_run_folder_stands_for_its_tokenizer(tmp_path):
    make_tokenizer("word", "a b").save(tmp_path / "tokenizer.json")
    assert run("encode", tmp_path, "b a c") == "3 2 1\n"
    assert "special tokens: none" in run("info", tmp_path)


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        (("--vocab-size", 256), 1, "vocab_size=256 is too small for tokenizer bpe: give 257"),
        (("--vocab-size", 0), 2, "0 is not in the range x>=1"),
        (("--kind", "word", "--vocab-size", 2), 1, "too small for tokenizer word"),
        (("--kind", "char", "--vocab-size", 99), 1, "no effect on kind char"),
        (("--kind", "gpt2"), 2, "is not one of 'bpe', 'char', 'word'"),
        (("--special", "a b"), 1, "special token 'a b' is empty or holds whitespace"),
        (("--encoding", "u8x"), 1, "unknown text encoding 'u8x'"),
    ],
)
def test_options_that_cannot_be(corpus, tmp_path, options, status, message):
    output = tmp_path / "t.json"
    assert message in run("train", corpus, "--output", output, *options, status=status)
    assert not output.exists()


def test_inputs_and_outputs_that_cannot_be(corpus, tmp_path):
    bad, output = tmp_path / "bad.txt", tmp_path / "t.json"
    assert "cannot be read" in run("train", bad, "--output", output, status=1)
    for kind in ("bpe", "char", "word"):
        for data, message in ((b"\0", "is binary"), (b"", "is empty"), (b"a\xff", "is not UTF-8")):
            bad.write_bytes(data)
            printed = run("train", bad, "--output", output, "--kind", kind, status=1)
            assert message in printed
            assert printed.count("\n") == 1
    assert not output.exists()
    assert "is a folder" in run("train", corpus, "--output", tmp_path, status=1)
    nowhere = tmp_path / "none" / "t.json"
    assert "create it first" in run("train", corpus, "--output", nowhere, status=1)


def test_files_and_ids_that_are_none(corpus):
    for command in (("info",), ("encode", "text"), ("decode", "1")):
        name, *rest = command
        assert "cannot be read" in run(name, "none.json", *rest, status=1)
        assert "is damaged" in run(name, corpus, *rest, status=1)
    assert "'x' is no token id" in run("decode", "gpt2", "12", "x", status=1)
    assert "is no token id" in run("decode", "gpt2", "9" * 30, status=1)
    assert "is outside [0, 50257)" in run("decode", "gpt2", "50257", status=1)
