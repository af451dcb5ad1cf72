import hashlib
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebm_wgpu.text.deduplication import DigestSet, RepetitionSample, text_digest


@given(st.lists(st.integers(1, 2**64 - 1) | st.integers(1, 40).map(lambda n: n << 40)))
def test_a_digest_set_is_a_set(digests):
    found, expected = DigestSet(), set()
    for digest in digests:
        assert found.add(digest) == (digest not in expected)
        expected.add(digest)
    assert len(found) == len(expected)


def test_a_digest_set_grows_and_stays_small():
    rng = random.Random(0)
    digests = list({rng.randrange(1, 2**64) for _ in range(50_000)})
    found = DigestSet()
    assert all(found.add(digest) for digest in digests)
    assert not any(found.add(digest) for digest in digests)
    assert 12 <= found.n_bytes / len(digests) <= 32


def test_digests_are_those_of_blake2b():
    expected = hashlib.blake2b("né".encode(), digest_size=8).digest()
    assert text_digest("né") == int.from_bytes(expected, "little")
    assert len({text_digest(str(number)) for number in range(20_000)}) == 20_000


def test_repetitions_are_exact_while_they_fit():
    sample = RepetitionSample(100)
    for number in range(300):
        sample.add(text_digest(str(number % 90)))
    assert sample.exact
    assert sample.total == 300
    assert sample.repeated_share == pytest.approx(1 - 90 / 300, abs=1e-15)
    assert RepetitionSample().repeated_share == 0.0


def test_repetitions_are_estimated_within_five_standard_errors_beyond():
    """Texts occur 1 to 5 times; the ratio's error follows from the sample's size."""
    rng = np.random.default_rng(0)
    times = rng.integers(1, 6, size=60_000)
    digests = rng.integers(1, 2**64 - 1, size=times.size, dtype=np.uint64).tolist()
    sample = RepetitionSample(4096)
    for digest, count in zip(digests, times.tolist(), strict=True):
        for _ in range(count):
            sample.add(digest)
    exact = 1 - times.size / times.sum()
    assert not sample.exact
    assert sample.total == times.sum()
    mean = times.mean()
    error = times.std() / mean**2 / np.sqrt(2048)
    assert abs(sample.repeated_share - exact) < 5 * error
