import json
import random
import string
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import GPT2TokenizerFast

from ebm_wgpu.errors import DataError
from ebm_wgpu.text import tokenizer_base
from ebm_wgpu.text.corpora import load_corpus, word_count
from ebm_wgpu.text.streaming import token_safe_pieces
from ebm_wgpu.text.tokenizers import (
    TOKENIZERS,
    BpeTokenizer,
    CharTokenizer,
    Gpt2Tokenizer,
    WordTokenizer,
    load_tokenizer,
    make_tokenizer,
    train_tokenizer,
)

SAMPLE = load_corpus("wikitext-2", "valid")[:200_000]
SAMPLES_BY_SIZE = {"bpe": 1000, "gpt2": None, "char": None, "word": None}
MADE = {name: make_tokenizer(name, SAMPLE, size) for name, size in SAMPLES_BY_SIZE.items()}
ANY_TEXT = st.text(st.characters(codec="utf-8") | st.sampled_from(" \n\t\x85\xa0\u2028'se<>|"))


def test_every_tokenizer_is_covered_here():
    assert MADE.keys() == TOKENIZERS.keys()


def test_gpt2_is_gpt2():
    gpt2 = MADE["gpt2"]
    assert gpt2.encode("Hello world").tolist() == [15496, 995]
    assert gpt2.decode([15496, 995]) == "Hello world"
    assert gpt2.vocab_size == 50257
    assert gpt2.encode("<|endoftext|>").tolist() == [50256]
    assert gpt2.start_id == 198


@pytest.fixture(scope="module")
def published_gpt2(tmp_path_factory):
    """The same vocabulary, read by transformers from an exported folder."""
    folder = tmp_path_factory.mktemp("gpt2")
    MADE["gpt2"]._inner.model.save(str(folder))
    return GPT2TokenizerFast.from_pretrained(str(folder))


def test_gpt2_encodes_as_transformers_does(published_gpt2):
    for text in (
        SAMPLE[:50_000],
        "I'll  won't\n\n x\t\x85\xa0 y 12ab é\u2028\U0001f600 <|endoftext|>!",
    ):
        assert MADE["gpt2"].encode(text).tolist() == published_gpt2(text)["input_ids"]


@pytest.mark.parametrize("name", ["bpe", "gpt2"])
@given(text=ANY_TEXT)
def test_any_text_survives_byte_level_bpe(name, text):
    ids = MADE[name].encode(text)
    assert ids.dtype == np.int32
    assert ids.ndim == 1
    assert MADE[name].decode(ids) == text


@pytest.mark.parametrize("name", ["bpe", "gpt2", "word"])
@given(text=ANY_TEXT, size=st.integers(1, 8))
def test_chunks_encode_as_the_whole_does(name, text, size):
    tokenizer = MADE[name]
    parts = [tokenizer.encode(chunk) for chunk in tokenizer_base.safe_chunks(text, size)]
    assert [index for part in parts for index in part.tolist()] == tokenizer.encode(text).tolist()


def test_a_long_text_encodes_as_its_parts_do():
    cut = SAMPLE.index(" ", 130_000)
    for tokenizer in MADE.values():
        parts = [tokenizer.encode(SAMPLE[:cut]), tokenizer.encode(SAMPLE[cut:])]
        assert np.array_equal(np.concatenate(parts), tokenizer.encode(SAMPLE))


def test_bpe_training_is_the_same_in_another_process():
    code = (
        "from ebm_wgpu.text.corpora import load_corpus\n"
        "from ebm_wgpu.text.tokenizers import make_tokenizer\n"
        "text = load_corpus('wikitext-2', 'valid')[:200_000]\n"
        "print(make_tokenizer('bpe', text, 1000).fingerprint)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == MADE["bpe"].fingerprint


def test_bpe_has_the_size_asked_for_or_what_the_text_gives():
    assert MADE["bpe"].vocab_size == 1000
    assert BpeTokenizer.train(SAMPLE, 257).vocab_size == 257
    few = BpeTokenizer.train("ab ab cd", 1000)
    assert few.vocab_size == 258
    assert few.decode(few.encode("zß ab")) == "zß ab"
    assert few.decode([few.start_id]) == "\n"


def test_bpe_ids_are_fewer_than_characters_and_more_than_words():
    n_words, n_ids = word_count(SAMPLE), MADE["bpe"].encode(SAMPLE).size
    assert n_words < n_ids < len(SAMPLE) / 2


def test_characters_in_code_point_order_and_the_unknown_one():
    tokenizer = CharTokenizer.train("cab\na")
    assert tokenizer.vocab_size == 5
    assert tokenizer.encode("abc\n").tolist() == [1, 2, 3, 0]
    assert tokenizer.decode(tokenizer.encode("abzé\U0001f600")) == "ab\ufffd\ufffd\ufffd"
    assert tokenizer.start_id == 0
    assert CharTokenizer.train("ab").start_id == 2
    assert make_tokenizer("char", load_corpus("shakespeare")).vocab_size == 66


@given(st.text(alphabet=st.sampled_from(sorted({*SAMPLE}))))
def test_known_characters_survive(text):
    assert MADE["char"].decode(MADE["char"].encode(text)) == text
    assert MADE["char"].encode(text).size == len(text)


def test_words_are_ranked_by_count_then_spelling():
    tokenizer = WordTokenizer.train("b a <unk> c\nb a d\n")
    assert [tokenizer.decode([index]) for index in range(tokenizer.vocab_size)] == [
        "\n",
        "<unk>",
        "a",
        "b",
        "c",
        "d",
    ]
    assert tokenizer.encode("a zzz\n\nb").tolist() == [2, 1, 0, 0, 3]
    small = WordTokenizer.train("b a <unk> c\nb a d\n", 4)
    assert small.encode("a b c\n").tolist() == [2, 3, 1, 0]


def test_word_vocabulary_of_wikitext_2_is_the_published_one():
    tokenizer = make_tokenizer("word", load_corpus("wikitext-2"))
    assert tokenizer.vocab_size == 33_278
    valid = load_corpus("wikitext-2", "valid")
    assert tokenizer.encode(valid).size == 217_646
    assert int((tokenizer.encode(valid) == tokenizer.start_id).sum()) == 3_760


@given(ANY_TEXT)
def test_words_are_counted_alike_everywhere(text):
    assert MADE["word"].encode(text).size == word_count(text)


@pytest.mark.parametrize("name", ["char", "word"])
@given(data=st.data())
def test_ids_survive_decoding(name, data):
    tokenizer = MADE[name]
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=60))
    assert tokenizer.encode(tokenizer.decode(ids)).tolist() == ids


@pytest.mark.parametrize("name", TOKENIZERS)
def test_empty_texts_have_no_ids(name):
    ids = MADE[name].encode("")
    assert (ids.size, ids.dtype) == (0, np.int32)
    assert MADE[name].decode([]) == ""


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_saved_tokenizer_is_the_same_again(name, tmp_path):
    path = tmp_path / "tokenizer.json"
    MADE[name].save(path)
    loaded = load_tokenizer(path)
    assert type(loaded) is type(MADE[name])
    assert (loaded.name, loaded.vocab_size, loaded.fingerprint, loaded.start_id) == (
        name,
        MADE[name].vocab_size,
        MADE[name].fingerprint,
        MADE[name].start_id,
    )
    assert np.array_equal(loaded.encode(SAMPLE[:5000]), MADE[name].encode(SAMPLE[:5000]))
    loaded.save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == path.read_bytes()
    assert {entry.name for entry in tmp_path.iterdir()} == {"tokenizer.json", "again.json"}


def test_files_that_are_no_tokenizer_are_refused(tmp_path):
    path = tmp_path / "tokenizer.json"
    with pytest.raises(DataError, match="cannot be read"):
        load_tokenizer(path)
    MADE["char"].save(path)
    good = json.loads(path.read_text())
    for data, message in (
        (path.read_bytes()[:-9], "is damaged, not JSON"),
        (b"\xff", "is damaged, not JSON"),
        (b"[]", "is no tokenizer file of ebm-wgpu"),
        (json.dumps({"model": {}}).encode(), "is no tokenizer file of ebm-wgpu"),
        (json.dumps({**good, "version": 2}).encode(), "has tokenizer version 2, not 1"),
        (json.dumps({**good, "name": "chars"}).encode(), "is damaged"),
        (json.dumps({**good, "name": ["char"]}).encode(), "is damaged"),
        (json.dumps({**good, "state": {"characters": "ab\ufffd"}}).encode(), "is damaged"),
        (json.dumps({**good, "state": 3}).encode(), "is damaged"),
    ):
        path.write_bytes(data)
        with pytest.raises(DataError, match=message) as caught:
            load_tokenizer(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "state", "message"),
    [
        ("bpe", {"tokenizer": {}}, "is damaged"),
        ("char", {"characters": "ab"}, "is damaged"),
        ("word", {"words": ["a"]}, "is damaged"),
        ("word", {}, "is damaged"),
        ("words", {}, r"unknown tokenizer 'words' \(did you mean word\?\)"),
        ("gpt2", {"gpt2-vocab.json": "0", "gpt2-merges.txt": "0"}, "another vocabulary"),
    ],
)
def test_consistent_files_of_impossible_content_are_refused(tmp_path, name, state, message):
    path = tmp_path / "tokenizer.json"
    document = {
        "format": tokenizer_base.FILE_FORMAT,
        "version": tokenizer_base.FILE_VERSION,
        "name": name,
        "fingerprint": tokenizer_base.state_fingerprint(name, state),
        "state": state,
    }
    path.write_text(json.dumps(document))
    with pytest.raises(DataError, match=message):
        load_tokenizer(path)


def test_bit_flips_never_load_as_another_tokenizer(tmp_path):
    path = tmp_path / "tokenizer.json"
    tokenizer = WordTokenizer.train(" ".join(string.ascii_letters))
    tokenizer.save(path)
    good = path.read_bytes()
    rng = random.Random(0)
    for _ in range(200):
        bad = bytearray(good)
        bad[rng.randrange(len(bad))] ^= 1 << rng.randrange(8)
        path.write_bytes(bad)
        try:
            loaded = load_tokenizer(path)
        except DataError:
            continue
        assert loaded.fingerprint == tokenizer.fingerprint


@pytest.mark.parametrize(
    ("name", "text", "size", "message"),
    [
        ("bpe", "text", 256, "vocab_size=256 is too small for tokenizer bpe: give 257"),
        ("bpe", "text", None, "vocab_size=None is too small"),
        ("word", "text", 2, "vocab_size=2 is too small for tokenizer word"),
        ("char", "", None, "the text to train tokenizer char on is empty"),
        ("bp", "text", 1000, r"unknown tokenizer 'bp' \(did you mean bpe\?\); choose one of bpe, "),
    ],
)
def test_tokenizers_that_cannot_be_made(name, text, size, message):
    with pytest.raises(DataError, match=message):
        make_tokenizer(name, text, size)


def test_gpt2_needs_no_text():
    assert make_tokenizer("gpt2", "").fingerprint == Gpt2Tokenizer().fingerprint


@pytest.mark.parametrize(("name", "size"), [("bpe", 600), ("char", None), ("word", 900)])
@pytest.mark.parametrize("special", [(), ("<|endoftext|>", "<x>")])
def test_training_on_a_stream_is_training_on_the_whole(name, size, special):
    text = SAMPLE[:60_000] + "\n<|endoftext|>\n" + SAMPLE[60_000:80_000]
    pieces = (text[first : first + 999] for first in range(0, len(text), 999))
    streamed = train_tokenizer(name, token_safe_pieces(pieces), size, special)
    whole = train_tokenizer(name, tokenizer_base.safe_chunks(text), size, special)
    assert streamed.fingerprint == whole.fingerprint
    if not special:
        assert streamed.fingerprint == make_tokenizer(name, text, size).fingerprint


@pytest.mark.parametrize(("name", "size"), [("bpe", 300), ("char", None), ("word", None)])
def test_special_tokens_are_one_token(name, size, tmp_path):
    special = ("<|endoftext|>", "<x>", "<xy>")
    text = "ab <x> cd\n<|endoftext|>\nab cd <x>\n"
    tokenizer = train_tokenizer(name, [text], size, (*special, "<x>"))
    ids = [tokenizer.token_id(token) for token in special]
    assert None not in ids
    assert len(set(ids)) == 3
    for token, index in zip(special, ids, strict=True):
        encoded = tokenizer.encode(f"ab {token} cd").tolist()
        assert encoded.count(index) == 1
        assert tokenizer.decode(encoded) == f"ab {token} cd"
        assert tokenizer.decode([index]) == token
    path = tmp_path / "tokenizer.json"
    tokenizer.save(path)
    loaded = load_tokenizer(path)
    assert loaded.encode(text).tolist() == tokenizer.encode(text).tolist()
    assert loaded.special_tokens == tokenizer.special_tokens
    if name != "word":
        assert tokenizer.special_tokens == special
        glued = tokenizer.encode("a<x><xy>b")
        assert [index for index in glued.tolist() if index in ids] == ids[1:]
        assert tokenizer.decode(glued) == "a<x><xy>b"


def test_nothing_is_learned_from_special_tokens():
    text = "<|endoftext|>" * 50 + "qr qr " * 3
    bpe = train_tokenizer("bpe", [text], 300)
    assert bpe.vocab_size == 259
    assert "<" not in train_tokenizer("char", [text], None, ["<|endoftext|>"]).state()["characters"]


@given(st.lists(st.sampled_from(["a", "<x>", "<", "<x", "b\n"]), max_size=12))
def test_characters_and_special_tokens_survive_together(parts):
    tokenizer = train_tokenizer("char", ["ab\n<x"], None, ["<x>"])
    text = "".join(parts)
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert ids.size == len(text) - 2 * text.count("<x>")


@pytest.mark.parametrize("name", TOKENIZERS)
def test_texts_together_encode_as_each_does(name):
    texts = [SAMPLE[:3000], "", "a", "zz <|endoftext|> ß\n"]
    found = MADE[name].encode_many(texts)
    assert [ids.tolist() for ids in found] == [MADE[name].encode(text).tolist() for text in texts]
    assert all(ids.dtype == np.int32 for ids in found)
    with pytest.raises(DataError, match=r"lone surrogate U\+D800"):
        MADE[name].encode_many(["ok", "\ud800"])


def test_tokens_by_their_text():
    assert MADE["gpt2"].token_id("<|endoftext|>") == 50256
    assert MADE["bpe"].token_id("<|endoftext|>") == 0
    for name, text in (("gpt2", "two words"), ("char", "ab"), ("word", "never-seen"), ("char", "")):
        assert MADE[name].token_id(text) is None


@pytest.mark.parametrize("name", TOKENIZERS)
def test_unknown_ids_stand_for_no_whole_character(name):
    tokenizer = MADE[name]
    unknown = {*tokenizer.unknown_ids}
    assert not unknown & {*tokenizer.encode("plain text\n").tolist()} - {*tokenizer.encode("\0")}
    assert unknown & {*tokenizer.encode("\U0001f9ff").tolist()}
    if name == "gpt2":
        replacement = tokenizer.encode("\ufffd").tolist()
        assert len(replacement) == 1
        assert not unknown & {*replacement}


@pytest.mark.parametrize(
    ("name", "size", "special", "message"),
    [
        ("bpe", 258, ["<x>", "<y>"], "vocab_size=258 is too small for tokenizer bpe: give 259"),
        ("word", 3, ["<x>"], "vocab_size=3 is too small for tokenizer word: give 4"),
        ("bpe", 300, ["a b"], "special token 'a b' is empty or holds whitespace"),
        ("char", None, [""], "special token '' is empty"),
        ("word", None, ["\ud800"], "lone surrogate"),
        ("gpt2", None, ["<x>"], "tokenizer gpt2 has no special token '<x>'"),
    ],
)
def test_special_tokens_that_cannot_be(name, size, special, message):
    with pytest.raises(DataError, match=message):
        train_tokenizer(name, ["text"], size, special)


@pytest.mark.parametrize("name", ["bpe", "char", "word"])
def test_errors_of_a_stream_come_through_training(name):
    def broken():
        yield "text"
        raise DataError("line 7 is damaged")

    with pytest.raises(DataError, match="line 7 is damaged"):
        train_tokenizer(name, broken(), 300)
    with pytest.raises(DataError, match=f"the text to train tokenizer {name} on is empty"):
        train_tokenizer(name, iter(["", ""]), 300)
