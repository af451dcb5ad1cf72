"""What each part of SplatLM is worth: the same data, the same steps, one part changed at a time.

Rows train a nano-like model for --steps on a piece of WikiText-2, as many however busy the machine
is, and are scored on the same validation tokens: statically, and online, with the same memory of
what was read (so that the static column is the ablation "no memory"). "seconds" is what a row took,
initialisation included. "no splats" has a single one, which can tell nothing; it keeps the latent
loss, which then teaches the tilt alone. Rows over a transformer have about as many parameters;
without splats it is CausalTransformer, and "stored splats" consolidates --states training states.

Rows "with ..." switch one energy term on: score matching teaches it while the splats learn, and it
shapes the latents of training at the weight that `ebm_wgpu.config` suggests. "matching" is the
score-matching loss of --positions held-out latents, the mean over the noise levels, with its
standard error; "term gains" what switching the term off adds to it, by the same noise, with the
standard error of that difference. Positions are taken as independent.

The last table scores the first model with mean, exact and Langevin latents, and their error.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from _common import Claim, parse_arguments, print_table, write_result
from wikitext import figures

from ebm_wgpu.cli.train import INTERRUPTED
from ebm_wgpu.config import Config, Latent, apply_overrides
from ebm_wgpu.evaluation.latents import contexts, spread_windows
from ebm_wgpu.evaluation.online import OnlineReport, score_online
from ebm_wgpu.evaluation.perplexity import evaluate_perplexity
from ebm_wgpu.kernels import KernelDevice, open_device
from ebm_wgpu.models.base import SplatModel
from ebm_wgpu.models.energy_ops import EnergyTerms
from ebm_wgpu.models.splat_lm import SplatLM
from ebm_wgpu.presets import load_config
from ebm_wgpu.readers import reader_of
from ebm_wgpu.text.corpora import load_corpus
from ebm_wgpu.text.datasets import TokenStream
from ebm_wgpu.text.tokenizers import make_tokenizer
from ebm_wgpu.training.loading import LoadedRun, load_run
from ebm_wgpu.training.objectives import TRAIN_ROWS
from ebm_wgpu.training.run_consolidation import consolidate_run
from ebm_wgpu.training.run_data import RunData
from ebm_wgpu.training.score_matching import Mixture, TiltedMixture, denoising_loss
from ebm_wgpu.training.term_fitting import combined_score
from ebm_wgpu.training.trainer import Trainer

_TRANSFORMER = (
    "model.dim=128", "transformer.dim=128", "transformer.n_layers=2", "transformer.n_heads=4",
    "transformer.max_length=256", "transformer.dropout=0.1",
)  # fmt: skip
_SPLAT_TRANSFORMER = ("model.context=transformer", *_TRANSFORMER)
WHOLE, SPLATLESS, MATCHING = "SplatLM", "no splats", "score matching instead of NLL"
STORED, PAIRS = "transformer context, stored splats", "with pair interaction"
ABLATIONS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        WHOLE: (),
        SPLATLESS: ("model.n_splats=1", "energy.n_neighbours=1", "sampler.list_size=1"),
        "no mixture of experts": ("model.n_experts=1", "model.n_active=1"),
        "no latent loss": ("train.latent_weight=0",),
        MATCHING: ("train.latent_weight=0", "train.dsm_weight=1"),
        "dropout": ("model.dropout=0.1",),
        "label smoothing": ("train.label_smoothing=0.1",),
        "trained on exact draws": ("train.token_latent=exact",),
        "trained on Langevin states": ("train.token_latent=langevin",),
        "with spread": (
            "energy.lambda_geom=0.1", "energy.lambda_cover=0", "energy.spread_loss=0.01",
        ),
        "with coverage": (
            "energy.lambda_geom=0.1", "energy.lambda_spread=0", "energy.coverage_loss=0.1",
        ),
        PAIRS: ("energy.lambda_comp=0.1", "energy.pair_loss=0.1"),
        "with batch entropy": ("energy.lambda_entropy=0.1", "energy.entropy_loss=0.01"),
        "transformer context": _SPLAT_TRANSFORMER,
        STORED: _SPLAT_TRANSFORMER,
        "transformer context, no splats": ("model.family=transformer", *_TRANSFORMER),
    }
)  # fmt: skip
"""Overrides by row."""
_NONE = "-"
_MATCHING_COLUMNS = ("matching", "matching ±", "term gains", "term gains ±")
_LATENT_COLUMNS = ("latent nats", *_MATCHING_COLUMNS)
_CONFIDENCE = 1.64
"""Standard errors below the mean where a 95% interval ends."""

Figures = dict[str, float | str]


@dataclass(frozen=True)
class Texts:
    """What all rows are scored on.

    Attributes:
        data: of the first row; all have the same.
        valid: first tokens of the validation text.
        n_bytes: bytes of these.
    """

    data: RunData
    valid: TokenStream
    n_bytes: int


def base_config(folder: Path, arguments: Any) -> Config:
    """The configuration that rows differ from; writes the texts and their tokenizer."""
    for split in ("train", "valid"):
        text = load_corpus("wikitext-2", split)[: arguments.characters]
        (folder / f"{split}.txt").write_text(text, encoding="utf-8")
        if split == "train":
            make_tokenizer("bpe", text, 4096).save(folder / "tokenizer.json")
    return load_config(
        "nano",
        [
            f"data.dataset={folder / 'train.txt'}", f"data.valid_path={folder / 'valid.txt'}",
            f"data.tokenizer_path={folder / 'tokenizer.json'}",
            f"data.heldout_tokens={arguments.heldout}", f"train.seed={arguments.seed}",
            f"train.steps={arguments.steps}", f"train.warmup_steps={arguments.steps // 4}",
            "train.batch_size=8", "train.eval_every=1000000",
            "train.eval_tokens=256", "train.checkpoint_every=1000000",
        ],
    )  # fmt: skip


def train(
    name: str, config: Config, run: Path, device: KernelDevice, states: int
) -> tuple[LoadedRun, float]:
    """Train a row; the run, and the seconds that initialisation, steps and consolidation took."""
    result = Trainer(config, run, device).train()
    if result.reason == "interrupted":
        raise SystemExit(INTERRUPTED)
    taken = result.elapsed
    if name == STORED:
        changed = [f"memory.states={states}"]
        taken += consolidate_run(run, device, overrides=changed).seconds
    return load_run(run, device, "last"), taken


def online(run: LoadedRun, texts: Texts, capacity: int) -> OnlineReport:
    """Static and online figures, the memory fitted on held-out training text."""
    reader = reader_of(run.model)
    assert reader is not None
    return score_online(
        reader,
        texts.data.heldout,
        texts.valid,
        run.config,
        start_id=run.tokenizer.start_id,
        capacity=capacity,
        n_bytes=texts.n_bytes,
    )


@torch.no_grad()
def latent_nats(run: LoadedRun, valid: TokenStream) -> float | str:
    """-log p(e_w|c)/(d-1) on validation text, nats a degree of freedom."""
    if not isinstance(run.model, SplatLM):
        return _NONE
    windows = spread_windows(valid, run.config.data.block_size + 1, 16)
    return float(run.model.losses(windows)["latent"])


@torch.no_grad()
def matching_losses(model: SplatModel, config: Config, valid: TokenStream, count: int) -> Figures:
    """Score-matching losses of the energy, and what its further terms take off, with errors."""
    block = config.data.block_size
    windows = spread_windows(valid, block + 1, -(-count // block))
    h, targets = contexts(model, windows, count, np.random.default_rng(0))
    x, splats = model.token_latents(targets), model.splats()

    def losses(terms: EnergyTerms | None) -> torch.Tensor:
        """Of each position, averaged over the levels; the noise is the same at each call."""
        rng, parts = np.random.default_rng(1), []
        for rows in torch.arange(len(x)).split(TRAIN_ROWS):
            score = combined_score(TiltedMixture(Mixture(*splats, h[rows])), terms)
            levels = [
                denoising_loss(x[rows], kappa * (x.shape[1] - 1) * ones[rows], score, rng)
                for kappa in config.train.dsm_levels
            ]
            parts.append(torch.stack(levels).double().mean(0))
        return torch.cat(parts)

    ones = x.new_ones(len(x), 1)
    whole = losses(model.energy_terms)
    found: Figures = {"matching": float(whole.mean()), "matching ±": standard_error(whole)}
    if model.energy_terms is None:
        return found
    gain = losses(None) - whole
    return {**found, "term gains": float(gain.mean()), "term gains ±": standard_error(gain)}


def standard_error(values: torch.Tensor) -> float:
    """Of the mean of independent values."""
    return float(values.std()) / len(values) ** 0.5


def row(name: str, run: LoadedRun, seconds: float, texts: Texts, arguments: Any) -> dict[str, Any]:
    """A line of the table."""
    report = online(run, texts, arguments.capacity)
    matching: Figures = dict.fromkeys(_MATCHING_COLUMNS, _NONE)
    splats = run.model.splat_model
    if splats is not None:
        matching |= matching_losses(splats, run.config, texts.valid, arguments.positions)
    return {
        "ablation": name,
        **figures(run, seconds, report),
        "latent nats": latent_nats(run, texts.valid),
        **matching,
    }


def latent_rows(run: LoadedRun, texts: Texts, tokens: int, draws: int) -> list[dict[str, Any]]:
    """Perplexity of one model by the kind of latent, on the first tokens."""
    short, n_bytes = texts.valid.prefix(min(tokens, len(texts.valid)), run.tokenizer)
    kinds: tuple[tuple[Latent, int], ...] = (("mean", 1), ("exact", draws), ("langevin", draws))
    rows = []
    for latent, count in kinds:
        report = evaluate_perplexity(
            run.model,
            short,
            run.config,
            start_id=run.tokenizer.start_id,
            latent=latent,
            draws=count,
            n_bytes=n_bytes,
        )
        rows.append(
            {
                "latent": latent,
                "draws": count,
                "static ppl": report.token_perplexity,
                "standard error": report.standard_error,
                "ever more draws": report.extrapolated_perplexity,
                "static bits/byte": report.bits_per_byte,
            }
        )
    return rows


def main() -> None:
    arguments = parse_arguments(
        "ablations",
        __doc__,
        steps=100,
        device="numba",
        characters=1500000,
        tokens=4096,
        heldout=4096,
        capacity=2048,
        states=65536,
        positions=2048,
        latent_tokens=1024,
        draws=8,
        seed=0,
    )
    device = open_device(arguments.device)
    rows, by_latent = [], []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        base = base_config(folder, arguments)
        # Whatever is compiled at first use is compiled before the first row.
        Trainer(apply_overrides(base, ["train.steps=2"]), folder / "warm-up", device).train()
        data = RunData.load(base)
        texts = Texts(data, *data.valid_prefix(arguments.tokens))
        for number, (name, overrides) in enumerate(ABLATIONS.items()):
            config = apply_overrides(base, overrides)
            run, taken = train(name, config, folder / str(number), device, arguments.states)
            if name == WHOLE:
                by_latent = latent_rows(run, texts, arguments.latent_tokens, arguments.draws)
            rows.append(row(name, run, taken, texts, arguments))
            print(json.dumps(rows[-1]), flush=True)
    title = f"{len(texts.valid):,} validation tokens, {device.description}"
    print_table(
        f"{arguments.steps} steps each, {title}",
        [{key: line[key] for key in line if key not in _LATENT_COLUMNS} for line in rows],
    )
    print_table(
        f"latents of {arguments.positions:,} positions, means over noise levels",
        [{key: line[key] for key in ("ablation", *_LATENT_COLUMNS)} for line in rows],
    )
    print_table(f"{WHOLE} by latent, {arguments.latent_tokens:,} tokens", by_latent)
    found = {line["ablation"]: line for line in rows}
    whole = found[WHOLE]
    claims = [
        Claim(
            "memory: SplatLM online over static",
            whole["online ppl"] / whole["static ppl"], 1, at_most=True,
        ),
        Claim(
            "splats: SplatLM over the same without, static",
            whole["static ppl"] / found[SPLATLESS]["static ppl"], 1, at_most=True,
        ),
        Claim(
            "exact likelihood: latent nats of training by it, less those of score matching",
            whole["latent nats"] - found[MATCHING]["latent nats"], 0, "nats", at_most=True,
        ),
        Claim(
            "pair interaction: what it takes off the held-out matching loss, lower end at 95%",
            found[PAIRS]["term gains"] - _CONFIDENCE * found[PAIRS]["term gains ±"], 0,
        ),
    ]  # fmt: skip
    settings = {key: value for key, value in vars(arguments).items() if key != "output"}
    payload = {
        "settings": settings,
        "overrides": dict(ABLATIONS),
        "rows": rows,
        "latents": by_latent,
    }
    write_result("ablations", payload, device, claims=claims, output=arguments.output)


if __name__ == "__main__":
    main()
