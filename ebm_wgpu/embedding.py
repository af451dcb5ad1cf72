"""Texts as latents of a splat model: the mean after a text, energies token by token, likeness.

The context c of a text tilts the splats by h(c), and the tilted mixture has the mean E[x|c]
(`ebm_wgpu.models.splat_lm`). Its direction says what the model expects after the text, its length
(below 1) how sure it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from ebm_wgpu.errors import ConfigError, DataError
from ebm_wgpu.kernels import KernelDevice
from ebm_wgpu.models.base import LanguageModel, SplatModel
from ebm_wgpu.models.mixture_ops import (
    mixture_energy,
    mixture_log_weights,
    mixture_posterior,
    mixture_readout,
)
from ebm_wgpu.sphere import projx
from ebm_wgpu.splats.search import SearchResult, make_search
from ebm_wgpu.text.tokenizer_base import UNKNOWN_CHARACTER, TextTokenizer

Float32Array = NDArray[np.float32]
Float64Array = NDArray[np.float64]

_BATCH_TOKENS = 4096


@dataclass(frozen=True, eq=False)
class TextLatents:
    """What a model makes of some texts.

    Attributes:
        mean: (n, d) E[x|c], of length below 1.
        tilt: (n, d) h(c), natural units.
        log_partition: (n,) log Z(c), nats.
        tokens: (n,) tokens of each text.
        tokens_read: (n,) how many of them the model read, the last ones.
    """

    mean: Float32Array
    tilt: Float32Array
    log_partition: Float32Array
    tokens: NDArray[np.int64]
    tokens_read: NDArray[np.int64]

    @property
    def direction(self) -> Float32Array:
        """mean / |mean|, (n, d)."""
        return np.asarray(projx(self.mean.astype(np.float64)), np.float32)


@dataclass(frozen=True, eq=False)
class TokenEnergies:
    """Energies of the tokens of a text, each in the context of those before it.

    Attributes:
        pieces: the text that each token adds; joined, the text.
        tokens: (T,) ids.
        energy: (T,) E(e_w|c) = E_splats(e_w) - h(c).e_w of the token's direction e_w, nats.
        latent: (T,) -log p(e_w|c) = E(e_w|c) + log Z(c), nats: comparable from place to place.
        surprise: (T,) -log p(w|c) of the whole model, nats.
    """

    pieces: tuple[str, ...]
    tokens: NDArray[np.int64]
    energy: Float64Array
    latent: Float64Array
    surprise: Float64Array


class TextEmbedder:
    """Reads texts with a trained splat model.

    Attributes:
        model: the model.
        tokenizer: its tokenizer.
    """

    def __init__(
        self, model: LanguageModel, tokenizer: TextTokenizer, device: KernelDevice, context: int
    ) -> None:
        """Take a model as it is.

        Args:
            model: a model made of splats.
            tokenizer: the tokenizer it was trained with.
            device: runs the kernels.
            context: most tokens it reads; of longer texts the last ones.

        Raises:
            ConfigError: a model of another family, which has no latents on the sphere.
        """
        if model.splat_model is None:
            raise ConfigError(
                f"{type(model).__name__} has no splats, so that its texts have no latent on the "
                "sphere: use a run trained with model.family=splat"
            )
        self.model: SplatModel = model.splat_model
        self.tokenizer = tokenizer
        self._device, self._context = device, context

    @torch.no_grad()
    def embed(
        self, texts: Sequence[str], on_texts: Callable[[int], None] | None = None
    ) -> TextLatents:
        """The latents after texts; an empty text is the start of a line.

        Args:
            texts: n of them.
            on_texts: is told how many have been read since it was last told.

        Raises:
            DataError: a text that is no valid Unicode.
        """
        ids = [self._ids(text) for text in texts]
        kept = [row[-self._context :] for row in ids]
        n, d = len(ids), self.model.splats().mu.shape[1]
        mean, tilt = np.empty((n, d), np.float32), np.empty((n, d), np.float32)
        log_z = np.empty(n, np.float32)
        for batch in _batches([len(row) for row in kept]):
            longest = max(len(kept[i]) for i in batch)
            tokens = np.zeros((len(batch), longest), np.int64)
            for row, i in enumerate(batch):
                tokens[row, : len(kept[i])] = kept[i]
            last = torch.tensor([len(kept[i]) - 1 for i in batch])
            h = self.model.features(torch.from_numpy(tokens)).h
            h = h[torch.arange(len(batch)), last].contiguous()
            nothing = torch.zeros(len(batch), dtype=torch.int64)
            readout = mixture_readout(self._device, h, self.model.splats(), nothing, nothing)
            mean[batch], tilt[batch] = readout.mean.numpy(), h.numpy()
            log_z[batch] = readout.log_z.numpy()
            if on_texts is not None:
                on_texts(len(batch))
        lengths = np.array([len(row) for row in ids], np.int64)
        return TextLatents(mean, tilt, log_z, lengths, np.minimum(lengths, self._context))

    @torch.no_grad()
    def posterior(self, tilt: ArrayLike) -> Float32Array:
        """p(k|c) of every splat, (N,), for one tilt h(c), (d,)."""
        h = torch.from_numpy(np.atleast_2d(np.asarray(tilt, np.float32)))
        splats = self.model.splats()
        products = self.model.product(h, splats.mu.T)
        weights = mixture_log_weights(self._device, products, splats, h.square().sum(1))
        return np.asarray(mixture_posterior(self._device, weights)[0][0].numpy())

    @torch.no_grad()
    def base_point(self) -> Float64Array:
        """The direction of E[x] without a context, (d,): the middle of what the model knows."""
        nothing = torch.zeros(1, dtype=torch.int64)
        splats = self.model.splats()
        h = torch.zeros(1, splats.mu.shape[1])
        mean = mixture_readout(self._device, h, splats, nothing, nothing).mean[0]
        return np.asarray(projx(mean.double().numpy()))

    @torch.no_grad()
    def nearest_tokens(self, x: ArrayLike, k: int) -> SearchResult:
        """The k tokens whose directions have the highest cosine to the rows of x, (B, d).

        Raises:
            ConfigError: a k below 1 or above the size of the vocabulary.
        """
        tokens = torch.arange(self.model.vocab_size)
        search = make_search("flat")
        search.add(self.model.token_latents(tokens).numpy())
        return search.search(_unit_rows(x), k)

    @torch.no_grad()
    def energies(self, text: str) -> TokenEnergies:
        """The energy of each token of a text; the first follows the start of a line.

        Raises:
            DataError: a text without tokens, with more than the model reads, or that is no valid
                Unicode.
        """
        ids = self.tokenizer.encode(text)
        if not 1 <= ids.size <= self._context:
            raise DataError(
                f"the text has {ids.size} tokens: give 1 to {self._context}, what the model reads"
            )
        targets = torch.from_numpy(ids.astype(np.int64))
        inputs = torch.cat([torch.tensor([self.tokenizer.start_id]), targets[:-1]])[None]
        h = self.model.features(inputs).h[0].contiguous()
        x = self.model.token_latents(targets)
        energy = mixture_energy(self._device, x, self.model.splats()) - (h * x).sum(1)
        nothing = torch.zeros(len(h), dtype=torch.int64)
        log_z = mixture_readout(self._device, h, self.model.splats(), nothing, nothing).log_z
        surprise = -self.model.token_log_probs(inputs, targets[None])[0]
        return TokenEnergies(
            _pieces(self.tokenizer, targets.tolist()),
            targets.numpy(),
            energy.double().numpy(),
            (energy + log_z).double().numpy(),
            surprise.double().numpy(),
        )

    def _ids(self, text: str) -> NDArray[np.int32]:
        ids = self.tokenizer.encode(text)
        return ids if ids.size else np.array([self.tokenizer.start_id], ids.dtype)


def nearest_texts(directions: ArrayLike, queries: ArrayLike, k: int) -> SearchResult:
    """The k of the directions, (n, d), with the highest cosine to each query, (B, d).

    k is lowered to n. Raises `ConfigError` for a k below 1 or shapes that do not fit.
    """
    search = make_search("flat")
    search.add(_unit_rows(directions))
    return search.search(_unit_rows(queries), min(k, len(search)))


def corpus_lines(pieces: Iterable[str | None], most: int) -> list[str]:
    """The first documents, stripped, of what `ebm_wgpu.text.documents.read_documents` yields.

    Args:
        pieces: lines, and None after each document.
        most: how many to read.

    Raises:
        DataError: there is none.
    """
    texts: list[str] = []
    parts: list[str] = []
    for piece in pieces:
        if piece is not None:
            parts.append(piece)
            continue
        texts.append("".join(parts).strip())
        parts = []
        if len(texts) == most:
            break
    if not texts:
        raise DataError("the corpus holds no text: give a file with at least one line of it")
    return texts


def _unit_rows(x: ArrayLike) -> Float32Array:
    return np.asarray(projx(np.atleast_2d(np.asarray(x, np.float64))), np.float32)


def _batches(lengths: Sequence[int]) -> Iterable[list[int]]:
    """Indices in groups of like length, of at most `_BATCH_TOKENS` tokens with padding."""
    batch: list[int] = []
    for i in np.argsort(lengths, kind="stable"):
        # Lengths ascend: this one is what the whole batch is padded to.
        if batch and (len(batch) + 1) * lengths[i] > _BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(int(i))
    if batch:
        yield batch


def _pieces(tokenizer: TextTokenizer, tokens: list[int]) -> tuple[str, ...]:
    """What each token adds to the text; one that ends inside a character adds nothing yet."""
    pieces, shown = [], ""
    for end in range(1, len(tokens) + 1):
        text = tokenizer.decode(tokens[:end])
        whole = end == len(tokens) or not text.endswith(UNKNOWN_CHARACTER)
        pieces.append(text[len(shown) :] if whole else "")
        shown = text if whole else shown
    return tuple(pieces)
