"""Streams of text: whole characters, stop strings wherever tokens are cut, nothing shown twice."""

from __future__ import annotations

from itertools import accumulate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ebm_wgpu.errors import ConfigError
from ebm_wgpu.generation.text_stream import TextStream
from ebm_wgpu.text.tokenizers import TextTokenizer, make_tokenizer

GPT2 = make_tokenizer("gpt2", "")
CHARACTERS = make_tokenizer("char", "abc ")


def stream(text: str, prompt: str = "", stop: tuple[str, ...] = ()) -> tuple[list[str], TextStream]:
    """Pieces that a text gives, a byte or a few a token, and the stream."""
    found = TextStream(GPT2, GPT2.encode(prompt).tolist(), stop)
    pieces = []
    for token in GPT2.encode(text).tolist():
        pieces.append(found.push(token))
        if found.ended:
            return pieces, found
    return [*pieces, found.finish()], found


def end_by_definition(text: str, stop: tuple[str, ...]) -> str:
    """Read character by character: the text before the first stop string that is complete."""
    for length in range(len(text) + 1):
        ended = [stopper for stopper in stop if text[:length].endswith(stopper)]
        if ended:
            return text[: length - max(map(len, ended))]
    return text


@given(
    st.text("ab c", max_size=20),
    st.lists(st.text("ab ", min_size=1, max_size=4), max_size=3).map(tuple),
)
def test_a_text_ends_before_the_first_complete_stop_string(
    text: str, stop: tuple[str, ...]
) -> None:
    expected = end_by_definition(text, stop)
    by_tokens, _ = stream(text, "x", stop)
    assert "".join(by_tokens) == expected
    found = TextStream(CHARACTERS, [], stop)
    by_characters = ""
    for token in CHARACTERS.encode(text).tolist():
        by_characters += found.push(token)
        # What is shown can be followed by no stop string that begins inside it.
        assert expected.startswith(by_characters)
        if found.ended:
            break
    assert by_characters + found.finish() == expected
    assert found.ended == any(stopper in text for stopper in stop)


def test_the_possible_beginning_of_a_stop_string_is_held_back_no_longer_than_needed() -> None:
    found = TextStream(CHARACTERS, [], ("abc",))
    pieces = [found.push(int(token)) for token in CHARACTERS.encode("cababb")]
    assert pieces == ["c", "", "", "ab", "", "abb"]
    assert [found.push(int(token)) for token in CHARACTERS.encode("abc")] == ["", "", ""]
    assert found.ended
    assert found.finish() == ""


def test_stop_strings_are_not_sought_in_the_prompt() -> None:
    pieces, found = stream(" two. three", "one. and", (".",))
    assert "".join(pieces) == " two"
    assert found.ended


def test_characters_of_several_tokens_come_whole_even_before_a_stop_string() -> None:
    pieces, _ = stream("naïve 日本語 🙂 end.", "A", ("語 🙂",))
    assert "".join(pieces) == "naïve 日本"
    assert not any("�" in piece for piece in pieces)


def test_an_unfinished_character_is_shown_at_the_end() -> None:
    ids = GPT2.encode("🙂").tolist()
    found = TextStream(GPT2, [])
    assert [found.push(token) for token in ids[:-1]] == [""] * (len(ids) - 1)
    assert "�" in found.finish()


def test_an_empty_stop_string_is_an_error() -> None:
    with pytest.raises(ConfigError, match="a stop string is empty"):
        TextStream(GPT2, [], ("a", ""))


ANY_TEXT = st.text("ab é日🙂\N{REPLACEMENT CHARACTER}\n", max_size=12)


@st.composite
def written(draw: st.DrawFn) -> tuple[TextTokenizer, list[int], list[int]]:
    """A tokenizer, a prompt, and tokens after it, some of them at random: bytes cut anywhere."""
    kind = draw(st.sampled_from(["bpe", "bpe", "char", "word"]))
    trained_on = "a" + draw(ANY_TEXT) * 3
    tokenizer = make_tokenizer(kind, trained_on, 270 if kind == "bpe" else None)
    some = st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=20)
    of_text = ANY_TEXT.map(lambda text: tokenizer.encode(text).tolist())
    parts = draw(st.lists(some | of_text, max_size=8))
    return tokenizer, draw(of_text), [token for part in parts for token in part]


@settings(max_examples=50)
@given(written())
def test_pieces_are_the_text_though_few_tokens_are_decoded_at_a_time(
    case: tuple[TextTokenizer, list[int], list[int]],
) -> None:
    tokenizer, prompt, tokens = case
    decode, decoded = tokenizer.decode, []

    def watched(ids: list[int]) -> str:
        decoded.append(len(ids))
        return decode(ids)

    tokenizer.decode = watched  # type: ignore[assignment, method-assign]
    found = TextStream(tokenizer, prompt)
    del decoded[:]
    shown = list(accumulate(found.push(token) for token in tokens))
    assert max(decoded, default=0) <= 5
    start = len(decode(prompt))
    for count, text in enumerate(shown, 1):
        expected = decode(prompt + tokens[:count])[start:]
        # Only a last character that may not be complete is held back.
        assert text in (expected, expected.removesuffix("\N{REPLACEMENT CHARACTER}"))
    assert "".join([*shown[-1:], found.finish()]) == decode(prompt + tokens)[start:]


@pytest.mark.parametrize("lead", ["", "🙂"])
def test_a_long_run_of_broken_characters_is_decoded_by_few(lead: str) -> None:
    """Continuation bytes without a beginning, after none and after three of four bytes."""
    tokenizer = make_tokenizer("bpe", "a", 257)
    tokens = [*tokenizer.encode(lead).tolist()[:3], *tokenizer.encode("é").tolist()[1:] * 40]
    lengths = []
    decode = tokenizer.decode

    def watched(ids: list[int]) -> str:
        lengths.append(len(ids))
        return decode(ids)

    tokenizer.decode = watched  # type: ignore[assignment, method-assign]
    found = TextStream(tokenizer, [])
    text = "".join(found.push(token) for token in tokens) + found.finish()
    assert text == decode(tokens)
    assert max(lengths) == 5
