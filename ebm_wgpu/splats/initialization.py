"""First directions for the splats, and the store built from them.

Three sources: a pretrained embedding (`from_embedding`, with its loaders), the co-occurrences of
the training corpus (`spectral_directions`, the default), and the uniform distribution
(`uniform_directions`). `build_store` turns one direction a token into N splats.
"""

import heapq
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ebm_wgpu.errors import ConfigError, DataError
from ebm_wgpu.sphere import projx, random_uniform
from ebm_wgpu.splats.store import KAPPA_RANGE, SplatStore
from ebm_wgpu.vmf import inverse_mean_cosine, sample_vmf

Float32Array = NDArray[np.float32]

CONTEXT_SMOOTHING = 0.75
JITTER_COSINE = 0.9
_DENSE_SHARE = 0.02
_OVERSAMPLE = 16
_POWER_ITERATIONS = 3


def uniform_directions(n: int, dimension: int, seed: int = 0) -> Float32Array:
    """N independent uniform directions on S^{d-1}: (n, dimension) float32, fixed by the seed."""
    return random_uniform(np.random.default_rng(seed), n, dimension, np.float32)


def from_embedding(
    matrix: ArrayLike, dimension: int, *, known: ArrayLike | None = None, seed: int = 0
) -> Float32Array:
    """Rows of an embedding, centred, projected to their principal components, and normalised.

    matrix: (V, D), one row a token. known: (V,) booleans, which rows are real (default: all); the
    others take no part in the projection. With D < dimension the rest of the coordinates is zero.
    Returns (V, dimension) float32 unit rows; unknown rows, and rows at the mean, get a uniform
    direction fixed by the seed. Raises `DataError` for a matrix that is empty, not 2-D or not
    finite.
    """
    rows = np.asarray(matrix, np.float64)
    if rows.ndim != 2 or 0 in rows.shape:
        raise DataError(f"embedding of shape {rows.shape}: give one row a token, (V, D)")
    mask = np.ones(len(rows), bool) if known is None else np.asarray(known, bool)
    if mask.shape != (len(rows),) or not mask.any():
        raise DataError(f"known has shape {mask.shape}: mark at least one of {len(rows)} rows")
    if not np.isfinite(rows[mask]).all():
        raise DataError("the embedding holds NaN or infinity: mark those rows as not known")
    centred = np.where(mask[:, None], rows - rows[mask].mean(axis=0), 0)
    # The Gram matrix is small (D, D), and its eigenvectors are the right singular vectors.
    _, vectors = np.linalg.eigh(centred.T @ centred)
    axes = _fix_signs(vectors[:, ::-1][:, :dimension])
    return _normalised_rows(centred @ axes, dimension, seed)


def load_transformers_embedding(name_or_folder: str | Path) -> Float32Array:
    """The input embedding of a `transformers` model: (V, D) float32, row = token id.

    name_or_folder: a folder written by `save_pretrained` (read without the network), or a name on
    the hub, such as "gpt2". Raises `DataError` if it cannot be loaded.
    """
    import torch
    from transformers import AutoModel

    local = Path(name_or_folder).is_dir()
    try:
        model = AutoModel.from_pretrained(
            str(name_or_folder), local_files_only=local, dtype=torch.float32
        )
        weight = model.get_input_embeddings().weight
    # The library raises many types, of its own and of those it calls.
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(
            f"cannot load an embedding from {name_or_folder} ({type(error).__name__}: {reason}): "
            "give a folder written by save_pretrained, or a hub name and a network connection"
        ) from error
    array: Float32Array = weight.detach().cpu().numpy()
    return np.ascontiguousarray(array, dtype=np.float32)


def load_word_vectors(
    path: str | Path, vocabulary: Sequence[str]
) -> tuple[Float32Array, NDArray[np.bool_]]:
    """Word vectors in text form (word2vec with a header line, or GloVe without): matrix and mask.

    vocabulary: the text of each token, in the order of the ids. A token takes the vector of its
    exact text, or else of its text without white space around it. Returns ((V, D) float32 with zero
    rows for the tokens not found, (V,) bool found): the arguments of `from_embedding`.
    Raises `DataError` for a missing or malformed file, or if no token is found.
    """
    path = Path(path)
    exact: dict[str, list[int]] = {}
    stripped: dict[str, list[int]] = {}
    for index, token in enumerate(vocabulary):
        exact.setdefault(token, []).append(index)
        if token.strip() != token:
            stripped.setdefault(token.strip(), []).append(index)
    vectors: dict[int, Float32Array] = {}
    width = number = 0
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                fields = line.rstrip().split(" ")
                if number == 1:
                    header = len(fields) == 2
                    width = int(fields[1]) if header else len(fields) - 1
                    if header:
                        continue
                if len(fields) <= width or width < 1:
                    raise DataError(f"{path}: line {number} has fewer than {width} numbers")
                # Some published files hold words with spaces in them, so count from the right.
                word = " ".join(fields[:-width])
                targets = exact.get(word, [])
                others = [i for i in stripped.get(word, []) if i not in vectors]
                if targets or others:
                    vector = np.array(fields[-width:], dtype=np.float32)
                    vectors.update(dict.fromkeys(targets + others, vector))
    except OSError as error:
        raise DataError(f"{path}: cannot read the word vectors: {error.strerror}") from error
    except ValueError as error:
        raise DataError(
            f"{path}: line {number + 1} or near is not word vectors in text form ({error})"
        ) from error
    if not vectors:
        raise DataError(f"{path}: no token of the vocabulary has a vector: check the language")
    matrix = np.zeros((len(vocabulary), width), np.float32)
    found = np.zeros(len(vocabulary), bool)
    for index, vector in vectors.items():
        matrix[index], found[index] = vector, True
    return matrix, found


def spectral_directions(
    token_ids: ArrayLike, vocab_size: int, dimension: int, *, window: int = 2, seed: int = 0
) -> Float32Array:
    """Directions of the tokens from a factorised co-occurrence matrix of the corpus.

    Pairs up to `window` tokens apart count 1/distance, in both orders. The positive pointwise
    mutual information max(0, log[p(i,j) / (p(i) p_s(j))]), with p_s smoothed by the power 0.75, is
    factorised as U S V^T by a randomised SVD; the rows of U S^{1/2}, centred on their mean (which
    is their common part and tells tokens apart by nothing), are normalised.

    token_ids: (n,) integers in [0, vocab_size). Returns (vocab_size, dimension) float32 unit rows,
    fixed by the seed; tokens without a positive association (those never seen, above all) get a
    uniform direction. With vocab_size < dimension the rest of the coordinates is zero.
    Sources: Levy, Goldberg and Dagan, TACL 2015; Halko, Martinsson and Tropp, SIAM Review 2011,
    algorithm 4.4. Raises `DataError` for ids out of range or a corpus of fewer than two tokens,
    `ConfigError` for a window below 1.
    """
    ids = np.asarray(token_ids)
    if window < 1:
        raise ConfigError(f"window {window} of spectral_directions: use at least 1")
    if ids.ndim != 1 or len(ids) < 2 or not np.issubdtype(ids.dtype, np.integer):
        raise DataError(f"token ids are {ids.dtype} {ids.shape}: give at least two integers, (n,)")
    if ids.min() < 0 or ids.max() >= vocab_size:
        raise DataError(
            f"token ids run from {ids.min()} to {ids.max()}: expected 0 to {vocab_size - 1}, "
            "so tokenise the corpus with the vocabulary of the model"
        )
    association = _positive_information(_cooccurrences(ids, vocab_size, window))
    left, singular = _randomized_svd(association, dimension, np.random.default_rng(seed))
    rows = left * np.sqrt(singular)
    seen = np.asarray(association.sum(axis=1)).ravel() > 0
    mean = rows[seen].sum(axis=0) / max(int(seen.sum()), 1)
    rows = np.where(seen[:, None], rows - mean, 0)
    return _normalised_rows(rows, dimension, seed)


def build_store(
    directions: ArrayLike,
    token_counts: ArrayLike,
    n_splats: int,
    kappa: float,
    *,
    kappa_range: tuple[float, float] = KAPPA_RANGE,
    jitter_cosine: float = JITTER_COSINE,
    seed: int = 0,
) -> SplatStore:
    """N splats from one direction and one count a token.

    With N >= V, splat t < V is token t at its own direction; the other N - V go to tokens one at a
    time, each to the token with the most uses a splat (the highest-averages rule, ties to the lower
    id), at vMF draws around its direction with mean cosine `jitter_cosine`. With N < V the N most
    frequent tokens get one each, in order of id. sid is the token; frequency is the share of the
    corpus one splat stands for; alpha is N times that share after adding half an occurrence a
    token, so that its mean is about 1 and it is never 0.

    directions: (V, d) non-zero rows. token_counts: (V,) >= 0. kappa: relative concentration of all
    splats. Raises `ConfigError` or `StoreError` for values out of range.
    """
    rows = projx(np.asarray(directions, np.float64))
    counts = np.asarray(token_counts, np.float64)
    if rows.ndim != 2 or counts.shape != (len(rows),):
        raise ConfigError(
            f"directions {rows.shape} and token counts {counts.shape}: give (V, d) and (V,)"
        )
    if not (np.isfinite(counts) & (counts >= 0)).all():
        raise ConfigError("token counts must be finite and not negative: count the corpus again")
    if n_splats < 1:
        raise ConfigError(f"n_splats {n_splats}: use at least 1")
    vocab_size = len(rows)
    weights = counts + 0.5
    if n_splats >= vocab_size:
        copies = highest_averages(weights, n_splats - vocab_size)
        extra = np.repeat(np.arange(vocab_size), copies - 1)
        sid = np.concatenate([np.arange(vocab_size), extra])
        jittered = scattered(rows[extra], np.random.default_rng(seed), jitter_cosine)
        mu = np.concatenate([rows, jittered])
    else:
        sid = np.sort(np.argsort(-counts, kind="stable")[:n_splats])
        copies, mu = np.ones(vocab_size, np.int64), rows[sid]
    return SplatStore.from_directions(
        mu,
        alpha=n_splats * weights[sid] / copies[sid] / weights.sum(),
        kappa=kappa,
        sid=sid,
        frequency=counts[sid] / copies[sid] / max(counts.sum(), 1),
        kappa_range=kappa_range,
    )


def scattered(
    mu: ArrayLike, rng: np.random.Generator, cosine: float = JITTER_COSINE
) -> NDArray[Any]:
    """A vMF draw around each of the unit rows mu (n, d), at that mean cosine to it."""
    rows = np.asarray(mu)
    return sample_vmf(inverse_mean_cosine(cosine, rows.shape[1]) * rows, rng)


def highest_averages(
    weights: ArrayLike, extras: int, held: ArrayLike | None = None
) -> NDArray[np.int64]:
    """How many each has, (n,), when each of `extras` more goes to the highest weight / number held.

    weights: (n,) >= 0; ties go to the first. held: (n,) >= 1, what each has already (default: 1).
    """
    weight = np.asarray(weights, np.float64)
    numbers = np.array(np.broadcast_to(1 if held is None else held, len(weight)), np.int64)
    queue = [(-share, place) for place, share in enumerate((weight / numbers).tolist())]
    heapq.heapify(queue)
    for _ in range(extras):
        place = queue[0][1]
        numbers[place] += 1
        heapq.heapreplace(queue, (-weight[place] / numbers[place], place))
    return numbers


def _cooccurrences(ids: NDArray[Any], vocab_size: int, window: int) -> Any:
    """Symmetric sparse (V, V) float32 counts of the pairs within the window, each 1/distance."""
    from scipy import sparse

    shape = (vocab_size, vocab_size)
    ordered = sparse.csr_matrix(shape, dtype=np.float32)
    for offset in range(1, min(window, len(ids) - 1) + 1):
        weight = np.full(len(ids) - offset, 1 / offset, np.float32)
        pairs = sparse.coo_matrix((weight, (ids[:-offset], ids[offset:])), shape)
        ordered = ordered + pairs.tocsr()
    return (ordered + ordered.T).tocsr()


def _positive_information(counts: Any) -> Any:
    """Positive pointwise mutual information of sparse counts, float32; dense if that is smaller."""
    totals = np.asarray(counts.sum(axis=1), np.float64).ravel()
    smoothed = totals**CONTEXT_SMOOTHING
    row = np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr))
    ratio = counts.data * (smoothed.sum() / (totals[row] * smoothed[counts.indices]))
    counts.data = np.maximum(np.log(ratio), 0).astype(np.float32)
    counts.eliminate_zeros()
    # A dense product runs at the speed of BLAS, and overtakes the sparse one at a few per cent.
    return counts.toarray() if counts.nnz > _DENSE_SHARE * np.prod(counts.shape) else counts


def _randomized_svd(
    matrix: Any, rank: int, rng: np.random.Generator
) -> tuple[NDArray[Any], NDArray[Any]]:
    """The leading left singular vectors (V, r) and values (r,) of a square matrix, r <= rank."""
    size = matrix.shape[1]
    width = min(size, rank + _OVERSAMPLE)
    basis = rng.standard_normal((size, width)).astype(np.float32)
    for _ in range(_POWER_ITERATIONS):
        basis = np.linalg.qr(matrix @ basis)[0]
        basis = np.linalg.qr(matrix.T @ basis)[0]
    basis = np.linalg.qr(matrix @ basis)[0]
    left, singular, _ = np.linalg.svd((matrix.T @ basis).T, full_matrices=False)
    keep = min(rank, width)
    return _fix_signs(basis @ left[:, :keep]), singular[:keep]


def _fix_signs(vectors: NDArray[Any]) -> NDArray[Any]:
    """Columns with their largest entry made positive: eigenvectors come with either sign."""
    largest = np.take_along_axis(vectors, np.abs(vectors).argmax(axis=0)[None], axis=0)
    return vectors * np.where(largest < 0, -1, 1)


def _normalised_rows(rows: NDArray[Any], dimension: int, seed: int) -> Float32Array:
    """Unit rows of the given dimension; zero rows become uniform directions fixed by the seed."""
    padded = np.zeros((len(rows), dimension))
    padded[:, : rows.shape[1]] = rows
    lengths = np.linalg.norm(padded, axis=1)
    empty = lengths <= np.finfo(np.float32).eps * lengths.max()
    padded[empty] = uniform_directions(len(rows), dimension, seed)[empty]
    return projx(padded).astype(np.float32)
