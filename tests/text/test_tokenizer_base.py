from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebm_wgpu.errors import DataError
from ebm_wgpu.text.tokenizer_base import safe_chunks
from ebm_wgpu.text.tokenizers import CharTokenizer

SPACES = " \n\t\r\x0b\x1c\x85\xa0\u2003\u2028\u3000"


@given(st.text(st.characters(codec="utf-8") | st.sampled_from(SPACES)), st.integers(1, 50))
def test_chunks_join_to_the_text_and_meet_between_words(text, size):
    chunks = list(safe_chunks(text, size))
    assert "".join(chunks) == text
    assert [word for chunk in chunks for word in chunk.split()] == text.split()
    for before, after in pairwise(chunks):
        assert len(before) >= size
        assert not before[-1].isspace()
        assert after[0] in " \n"


def test_chunks_are_no_longer_than_they_need_be():
    assert [len(chunk) for chunk in safe_chunks("abc " * 100, 10)][:-1] == [11] + [12] * 32
    assert list(safe_chunks("", 10)) == []


def test_lone_surrogates_are_refused_with_their_place():
    tokenizer = CharTokenizer.train("abc")
    with pytest.raises(DataError, match=r"lone surrogate U\+DC80 at character 2"):
        tokenizer.encode("ab\udc80")


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([0, 4], r"token id 4 at position 1 is outside \[0, 4\)"),
        ([-1], "token id -1 at position 0"),
        (np.array([0, 2**40]), "token id 1099511627776"),
    ],
)
def test_ids_of_another_tokenizer_are_refused(ids, message):
    with pytest.raises(DataError, match=message):
        CharTokenizer.train("abc").decode(ids)


def test_fingerprints_tell_vocabularies_apart():
    fingerprints = [CharTokenizer.train(text).fingerprint for text in ("abc", "cba", "abcd")]
    assert fingerprints[0] == fingerprints[1] != fingerprints[2]
    assert len(fingerprints[0]) == 64
