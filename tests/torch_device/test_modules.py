"""Ordinary modules on the device: they learn as on the processor, and nothing falls back to it."""

from __future__ import annotations

import copy
import functools
import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import ebm_wgpu.torch_device as torch_device
from ebm_wgpu.models.base import LanguageModel
from ebm_wgpu.models.energy_transformer import EnergyTransformer
from ebm_wgpu.models.energy_transformer_config import EnergyTransformerConfig
from ebm_wgpu.models.nano_ebm import NanoEBM
from ebm_wgpu.models.nano_ebm_config import NanoEBMConfig
from ebm_wgpu.models.transformer_config import TransformerConfig

pytestmark = pytest.mark.usefixtures("no_fallbacks")

VOCABULARY, LENGTH, WIDTH = 50, 16, 32


def text(batch: int = 4, length: int = LENGTH + 1) -> Tensor:
    """Tokens that follow from the one before."""
    steps = torch.arange(length)[None] * torch.arange(3, 3 + batch)[:, None]
    return (steps + steps // 7) % VOCABULARY


class EncoderModel(nn.Module):
    """A causal language model of torch's own layers."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, WIDTH)
        self.places = nn.Embedding(LENGTH, WIDTH)
        layer = nn.TransformerEncoderLayer(
            WIDTH, 4, 2 * WIDTH, dropout, activation="gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, tokens: Tensor) -> Tensor:
        length = tokens.shape[1]
        x = self.tokens(tokens) + self.places(torch.arange(length, device=tokens.device))
        mask = nn.Transformer.generate_square_subsequent_mask(length, device=tokens.device)
        logits: Tensor = self.head(self.encoder(x, mask=mask, is_causal=True))
        return logits


class Block(nn.Module):
    """Attention and a feed-forward network, before each of which there is a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)])
        self.attend = nn.Linear(WIDTH, 3 * WIDTH)
        self.mix = nn.Linear(WIDTH, WIDTH)
        self.feed = nn.Sequential(
            nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH)
        )

    def forward(self, x: Tensor) -> Tensor:
        heads = self.attend(self.norms[0](x)).unflatten(-1, (3, 4, WIDTH // 4))
        q, k, v = heads.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.mix(mixed.transpose(1, 2).flatten(2))
        return x + self.feed(self.norms[1](x))


class Gpt(nn.Module):
    """Two blocks over embeddings that are the weights of the head too."""

    def __init__(self, checkpointing: bool = False) -> None:
        super().__init__()
        self.checkpointing = checkpointing
        self.tokens = nn.Embedding(VOCABULARY, WIDTH)
        self.places = nn.Parameter(0.02 * torch.randn(LENGTH, WIDTH))
        self.blocks = nn.ModuleList([Block(), Block()])
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.head.weight = self.tokens.weight
        nn.init.normal_(self.tokens.weight, std=0.1)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.tokens(tokens) + self.places[: tokens.shape[1]]
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False) if self.checkpointing else block(x)
        logits: Tensor = self.head(self.norm(x))
        return logits


def train(model: nn.Module, steps: int, place: str) -> list[float]:
    """Losses of steps with AdamW."""
    model.to(place)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    tokens = text().to(place)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        logits = model(tokens[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return losses


def both(model: nn.Module, steps: int) -> tuple[list[float], list[float]]:
    there = train(copy.deepcopy(model), steps, "wgpu")
    return train(model, steps, "cpu"), there


def test_a_gpt_learns_as_on_the_processor() -> None:
    torch.manual_seed(0)
    expected, actual = both(Gpt(), 50)
    assert max(abs(a - b) for a, b in zip(actual, expected, strict=True)) < 1e-4
    assert actual[-1] < actual[0] / 2


def test_an_encoder_of_torch_learns_as_on_the_processor() -> None:
    torch.manual_seed(0)
    model = EncoderModel()
    expected, actual = both(model, 8)
    assert max(abs(a - b) for a, b in zip(actual, expected, strict=True)) < 1e-4
    there = copy.deepcopy(model).to("wgpu").eval()
    with torch.no_grad():
        logits = there(text()[:, :-1].to("wgpu"))
        torch.testing.assert_close(logits.cpu(), model.eval()(text()[:, :-1]), rtol=1e-5, atol=1e-5)


def test_dropout_learns_and_repeats_with_the_seed() -> None:
    torch.manual_seed(0)
    model = EncoderModel(dropout=0.1)
    runs = []
    for _ in range(2):
        torch.manual_seed(7)
        runs.append(train(copy.deepcopy(model), 6, "wgpu"))
    assert runs[0] == runs[1]
    assert runs[0][-1] < runs[0][0]


def test_checkpointing_gives_the_same_for_less_memory() -> None:
    torch.manual_seed(0)
    model = Gpt()
    plain = train(copy.deepcopy(model), 3, "wgpu")
    model.checkpointing = True
    assert train(model, 3, "wgpu") == plain

    peaks = []
    tokens = text(32)[:, :-1].to("wgpu")
    for checkpointing in (False, True):
        model.checkpointing = checkpointing
        gc.collect()
        pool = torch_device.device().runtime.pool
        pool.reset_peak()
        model(tokens).square().mean().backward()
        peaks.append(pool.peak_bytes)
    assert peaks[1] < 0.8 * peaks[0]


def test_tied_weights_and_attributes_stay() -> None:
    model = Gpt()
    model.places.no_decay = True
    tied = model.tokens.weight
    model.to("wgpu")
    assert model.head.weight is model.tokens.weight is tied
    assert model.places.no_decay
    model.load_state_dict({name: t.cpu() for name, t in model.state_dict().items()})
    assert model.head.weight is model.tokens.weight
    assert model.places.no_decay


def test_states_are_saved_and_loaded(tmp_path: Path) -> None:
    torch.manual_seed(0)
    first, second = Gpt().to("wgpu"), Gpt()
    torch.save(first.state_dict(), tmp_path / "model.pt")
    second.load_state_dict(torch.load(tmp_path / "model.pt", map_location="cpu"))
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor.cpu(), second.state_dict()[name])
    second.to("wgpu")
    tokens = text()[:, :-1].to("wgpu")
    assert torch.equal(first(tokens).cpu(), second(tokens).cpu())


def energy_transformer(**options: Any) -> LanguageModel:
    # The noise of training is a device's own.
    config = EnergyTransformerConfig(
        dim=16, n_layers=1, n_heads=2, max_length=8, initial_noise=0.0, **options
    )
    return EnergyTransformer(config, VOCABULARY)


def nano_ebm(**options: Any) -> LanguageModel:
    config = TransformerConfig(dim=16, n_layers=1, n_heads=2, max_length=8)
    return NanoEBM(config, NanoEBMConfig(interaction=8, **options), VOCABULARY)


@pytest.mark.parametrize(
    "make",
    [
        energy_transformer,
        functools.partial(energy_transformer, variant="adaln"),
        functools.partial(energy_transformer, variant="time"),
        functools.partial(energy_transformer, step_rule="spectral", spectral_c=0.5),
        nano_ebm,
        functools.partial(nano_ebm, step_rule="spectral", gradient="logit"),
    ],
    ids=["ebt", "ebt-adaln", "ebt-time", "ebt-spectral", "nano", "nano-spectral"],
)
def test_energies_that_are_descended_are_differentiated_twice(
    make: Callable[[], LanguageModel],
) -> None:
    torch.manual_seed(0)
    model = make()
    model.initialize(text().flatten().numpy(), torch.ones(VOCABULARY).numpy(), seed=0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "modulation" in name:
                # Off zero, where gates let nothing through.
                parameter.normal_(0.0, 0.3)
    there = copy.deepcopy(model).to("wgpu")
    tokens = text(2, 7)
    results = []
    for one, place in ((model, "cpu"), (there, "wgpu")):
        loss = one.losses(tokens.to(place), seed=1)["token"]
        loss.backward()
        results.append((loss.item(), one))
    assert abs(results[0][0] - results[1][0]) < 1e-4
    for (name, expected), actual in zip(model.named_parameters(), there.parameters(), strict=True):
        if expected.grad is None:
            assert actual.grad is None, name
            continue
        assert actual.grad is not None, name
        scale = float(expected.grad.abs().max())
        torch.testing.assert_close(
            actual.grad.cpu(), expected.grad, rtol=1e-3, atol=1e-4 * scale + 1e-7, msg=name
        )
