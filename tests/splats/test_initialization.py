"""First directions: projections that keep geometry, spectral neighbours, and splats by count."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebm_wgpu.errors import ConfigError, DataError, StoreError
from ebm_wgpu.splats.initialization import (
    build_store,
    from_embedding,
    load_transformers_embedding,
    load_word_vectors,
    spectral_directions,
    uniform_directions,
)


def assert_unit(rows, shape):
    assert rows.shape == shape
    assert rows.dtype == np.float32
    assert np.abs(np.linalg.norm(rows, axis=1) - 1).max() < 1e-6


def test_uniform_directions_are_fixed_by_the_seed():
    first = uniform_directions(7, 64, seed=3)
    assert_unit(first, (7, 64))
    assert np.array_equal(first, uniform_directions(7, 64, seed=3))
    assert not np.array_equal(first, uniform_directions(7, 64, seed=4))


def test_projection_keeps_the_principal_components():
    rng = np.random.default_rng(0)
    matrix = rng.standard_normal((50, 30)) * np.geomspace(10, 0.01, 30) + rng.standard_normal(30)
    centred = matrix - matrix.mean(axis=0)
    left, singular, _ = np.linalg.svd(centred, full_matrices=False)
    expected = left[:, :8] * singular[:8]
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    rows = from_embedding(matrix, 8)
    assert_unit(rows, (50, 8))
    # Equal up to the sign of each component, which cosines do not see.
    assert rows @ rows.T == pytest.approx(expected @ expected.T, abs=2e-6)
    assert np.array_equal(rows, from_embedding(matrix, 8))


@given(scale=st.floats(1e-3, 1e3), seed=st.integers(0, 99))
def test_projection_ignores_shift_scale_and_rotation(scale, seed):
    rng = np.random.default_rng(seed)
    matrix = rng.standard_normal((20, 12)) * np.geomspace(4, 1, 12)
    rotation = np.linalg.qr(rng.standard_normal((12, 12)))[0]
    moved = scale * (matrix @ rotation + rng.standard_normal(12))
    one, other = from_embedding(matrix, 12), from_embedding(moved, 12)
    assert one @ one.T == pytest.approx(other @ other.T, abs=5e-6)


def test_narrow_embeddings_keep_their_cosines_in_more_dimensions():
    matrix = np.random.default_rng(1).standard_normal((20, 5))
    rows = from_embedding(matrix, 16)
    assert_unit(rows, (20, 16))
    assert not rows[:, 5:].any()


def test_unknown_and_central_rows_get_a_direction_of_their_own():
    rng = np.random.default_rng(2)
    matrix = rng.standard_normal((20, 16))
    matrix[3] = np.nan
    known = np.arange(20) != 3
    matrix[7] = matrix[known & (np.arange(20) != 7)].mean(axis=0)
    rows = from_embedding(matrix, 16, known=known, seed=5)
    uniform = uniform_directions(20, 16, seed=5)
    assert rows[[3, 7]] == pytest.approx(uniform[[3, 7]], abs=1e-6)
    others = np.delete(matrix, [3], axis=0)
    assert np.delete(rows, 3, axis=0)[0] @ rows[1] == pytest.approx(
        float(from_embedding(others, 16)[0] @ from_embedding(others, 16)[1]), abs=1e-6
    )


@pytest.mark.parametrize(
    ("matrix", "known", "message"),
    [
        (np.ones(5), None, r"shape \(5,\)"),
        (np.ones((0, 5)), None, r"shape \(0, 5\)"),
        (np.full((3, 4), np.nan), None, "NaN or infinity"),
        (np.ones((3, 4)), [False] * 3, "at least one of 3 rows"),
        (np.ones((3, 4)), [True] * 2, r"known has shape \(2,\)"),
    ],
)
def test_bad_embeddings_are_refused(matrix, known, message):
    with pytest.raises(DataError, match=message):
        from_embedding(matrix, 8, known=known)


def test_a_saved_model_gives_its_token_embedding(tmp_path):
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=37, n_embd=16, n_layer=1, n_head=2, n_positions=8)
    torch.manual_seed(0)
    model = GPT2LMHeadModel(config)
    model.save_pretrained(tmp_path / "model")
    loaded = load_transformers_embedding(tmp_path / "model")
    assert loaded.dtype == np.float32
    assert np.array_equal(loaded, model.transformer.wte.weight.detach().numpy())
    assert_unit(from_embedding(loaded, 8), (37, 8))


def test_a_folder_without_a_model_is_refused_in_one_line(tmp_path):
    with pytest.raises(DataError, match="cannot load an embedding from") as caught:
        load_transformers_embedding(tmp_path)
    assert "\n" not in str(caught.value)


VECTORS = {"cat": [1, 2, 3], "dog": [4, 5, 6], "new york": [7, 8, 9], "eel": [0, 0, 1]}


@pytest.mark.parametrize("header", ["", "4 3\n"])
def test_word_vectors_in_both_text_forms(tmp_path, header):
    path = tmp_path / "vectors.txt"
    lines = [f"{word} {' '.join(map(str, vector))}" for word, vector in VECTORS.items()]
    path.write_text(header + "\n".join(lines) + "\n", encoding="utf-8")
    vocabulary = ["dog", "bird", " cat", "cat", "new york", "dog", " "]
    matrix, found = load_word_vectors(path, vocabulary)
    assert matrix.dtype == np.float32
    assert found.tolist() == [True, False, True, True, True, True, False]
    assert matrix[[0, 2, 3, 4, 5]].tolist() == [
        [4, 5, 6],
        [1, 2, 3],
        [1, 2, 3],
        [7, 8, 9],
        [4, 5, 6],
    ]
    assert not matrix[~found].any()
    assert_unit(from_embedding(matrix, 8, known=found), (7, 8))


def test_an_exact_spelling_wins_over_one_without_spaces(tmp_path):
    path = tmp_path / "vectors.txt"
    path.write_text("cat 1 2 3\n cat 4 5 6\n", encoding="utf-8")
    matrix, _ = load_word_vectors(path, [" cat", "cat"])
    assert matrix.tolist() == [[4, 5, 6], [1, 2, 3]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"cat 1 2 3\ndog 1 2\n", "line 2 has fewer than 3 numbers"),
        (b"cat 1 2 3\ndog 1 x 3\n", "not word vectors in text form"),
        (b"cat 1 2 3\n\xff\xfe 1 2 3\n", "not word vectors in text form"),
        (b"eel 1 2 3\n", "no token of the vocabulary has a vector"),
        (b"", "no token of the vocabulary has a vector"),
        (b"cat\n", "line 1 has fewer than 0 numbers"),
    ],
)
def test_bad_word_vectors_are_refused(tmp_path, content, message):
    path = tmp_path / "vectors.txt"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        load_word_vectors(path, ["cat", "dog"])


def test_missing_word_vectors_are_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.txt: cannot read"):
        load_word_vectors(tmp_path / "none.txt", ["cat"])


def topical_corpus(seed: int, topics: int = 4, words: int = 10, length: int = 20_000):
    """Words of one topic at a time, topics alternating every ten words."""
    rng = np.random.default_rng(seed)
    topic = np.repeat(rng.integers(0, topics, length // 10), 10)
    return topic * words + rng.integers(0, words, len(topic))


def test_words_that_keep_company_get_close_directions():
    rows = spectral_directions(topical_corpus(0), 40, 8)
    assert_unit(rows, (40, 8))
    cosines = rows @ rows.T
    same = np.arange(40)[:, None] // 10 == np.arange(40) // 10
    nearest = np.argsort(-(cosines - 2 * np.eye(40)), axis=1)[:, :3]
    assert (nearest // 10 == np.arange(40)[:, None] // 10).all()
    assert cosines[same].mean() > 0.5
    assert cosines[~same].mean() < 0


def test_spectral_directions_equal_a_dense_factorisation():
    ids = topical_corpus(1, length=3000)
    counts = np.zeros((40, 40))
    for distance in (1, 2):
        np.add.at(counts, (ids[:-distance], ids[distance:]), 1 / distance)
    counts += counts.T
    smoothed = counts.sum(axis=0) ** 0.75
    with np.errstate(divide="ignore"):
        information = np.log(counts * smoothed.sum() / np.outer(counts.sum(axis=1), smoothed))
    left, singular, _ = np.linalg.svd(np.maximum(information, 0))
    expected = left * np.sqrt(singular)
    expected -= expected.mean(axis=0)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    # With as many dimensions as tokens the randomised factorisation is complete.
    rows = spectral_directions(ids, 40, 40)
    assert rows @ rows.T == pytest.approx(expected @ expected.T, abs=2e-4)


def test_sparse_and_dense_products_agree(monkeypatch):
    ids = topical_corpus(2)
    dense = spectral_directions(ids, 40, 8)
    monkeypatch.setattr("ebm_wgpu.splats.initialization._DENSE_SHARE", 2.0)
    assert spectral_directions(ids, 40, 8) == pytest.approx(dense, abs=1e-4)


def test_spectral_directions_are_fixed_by_the_seed_and_fill_in_unseen_tokens():
    ids = topical_corpus(3, length=2000)
    first = spectral_directions(ids, 60, 16, seed=9)
    assert np.array_equal(first, spectral_directions(ids.astype(np.int32), 60, 16, seed=9))
    assert np.array_equal(first[40:], uniform_directions(60, 16, seed=9)[40:])


def test_small_vocabularies_fit_in_large_spaces():
    rows = spectral_directions(topical_corpus(4, length=2000), 40, 64)
    assert_unit(rows, (40, 64))
    assert not rows[:, 40:].any()


def test_a_corpus_of_one_word_has_only_uniform_directions():
    rows = spectral_directions(np.zeros(10, int), 5, 8)
    assert rows == pytest.approx(uniform_directions(5, 8), abs=1e-6)


@pytest.mark.parametrize(
    ("ids", "window", "error", "message"),
    [
        ([0, 5], 2, DataError, "run from 0 to 5: expected 0 to 4"),
        ([-1, 1], 2, DataError, "run from -1 to 1"),
        ([1], 2, DataError, "at least two"),
        ([[1, 2]], 2, DataError, "at least two"),
        ([0.0, 1.0], 2, DataError, "float64"),
        ([0, 1], 0, ConfigError, "window 0"),
    ],
)
def test_bad_corpora_are_refused(ids, window, error, message):
    with pytest.raises(error, match=message):
        spectral_directions(ids, 5, 8, window=window)


def test_one_splat_a_token_stands_at_its_direction():
    directions = uniform_directions(5, 8)
    store = build_store(directions, [1, 0, 3, 2, 4], 5, kappa=2.0)
    assert np.array_equal(store.sid, np.arange(5))
    assert store.mu == pytest.approx(directions, abs=1e-7)
    assert store.frequency == pytest.approx([0.1, 0, 0.3, 0.2, 0.4])
    assert np.exp(store.log_pi) == pytest.approx(np.array([1.5, 0.5, 3.5, 2.5, 4.5]) / 12.5)
    assert store.alpha.mean() == pytest.approx(1)


def test_fewer_splats_than_tokens_keep_the_most_frequent():
    directions = uniform_directions(6, 8)
    store = build_store(directions, [5, 1, 7, 5, 5, 0], 3, kappa=1.0)
    assert store.sid.tolist() == [0, 2, 3]
    assert store.mu == pytest.approx(directions[[0, 2, 3]], abs=1e-7)


@given(
    counts=st.lists(st.integers(0, 1000), min_size=3, max_size=12),
    extra=st.integers(0, 60),
)
def test_extra_splats_share_the_uses_as_evenly_as_can_be(counts, extra):
    vocab_size = len(counts)
    directions = uniform_directions(vocab_size, 16)
    store = build_store(directions, counts, vocab_size + extra, kappa=3.0)
    assert len(store) == vocab_size + extra
    assert np.array_equal(store.sid[:vocab_size], np.arange(vocab_size))
    weights = np.array(counts) + 0.5
    held = np.bincount(store.sid, minlength=vocab_size)
    # No token that was given an extra would have fewer uses a splat before than another has now.
    given_extra = held > 1
    if given_extra.any():
        before = (weights / np.maximum(held - 1, 1))[given_extra].min()
        assert before >= (weights / held).max() * (1 - 1e-12)
    share = np.bincount(store.sid, np.exp(store.log_pi), vocab_size)
    assert share == pytest.approx(weights / weights.sum(), rel=1e-5)
    if sum(counts):
        frequency = np.bincount(store.sid, store.frequency, vocab_size)
        assert frequency == pytest.approx(np.array(counts) / sum(counts), abs=1e-12)


def test_copies_are_scattered_around_their_token():
    directions = uniform_directions(4, 640)
    store = build_store(directions, [1000, 0, 0, 0], 2004, kappa=1.0, jitter_cosine=0.9, seed=1)
    copies = store.mu[4:]
    assert (store.sid[4:] == 0).all()
    # Each cosine has a standard deviation of .0044 at d = 640, the mean one of 1e-4.
    assert (copies @ directions[0]).mean() == pytest.approx(0.9, abs=5e-4)
    assert np.unique(copies[:, 0]).size == 2000
    again = build_store(directions, [1000, 0, 0, 0], 2004, kappa=1.0, jitter_cosine=0.9, seed=1)
    assert np.array_equal(store.mu, again.mu)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"token_counts": [1, 2]}, ConfigError, r"token counts \(2,\)"),
        ({"token_counts": [1, -1, 1]}, ConfigError, "not negative"),
        ({"token_counts": [1, np.nan, 1]}, ConfigError, "finite"),
        ({"n_splats": 0}, ConfigError, "n_splats 0"),
        ({"kappa": 99.0}, StoreError, "kappa of row 0 is 99"),
        ({"directions": np.zeros((3, 8))}, ConfigError, "no direction"),
        ({"jitter_cosine": 1.0, "n_splats": 5}, ConfigError, "0, 1"),
    ],
)
def test_arguments_out_of_range_are_refused(change, error, message):
    arguments = {
        "directions": uniform_directions(3, 8),
        "token_counts": [1, 2, 3],
        "n_splats": 3,
        "kappa": 1.0,
    }
    with pytest.raises(error, match=message):
        build_store(**(arguments | change))
