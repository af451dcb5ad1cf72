"""Tiny Shakespeare, characters: does thinking (System 2) pay, at equal weights and at equal time?

Every model has the same number of seconds for everything: to learn from scratch and then to score
the validation text in its own way; one that thinks longer while scoring learns for less long. They
learn in turns of a few seconds, so that all meet the same load of the machine. All get the same
batches. Shape: nanoGPT's small CPU setting (4 layers, 4 heads, 128 wide, blocks of 64, batches of
12, no dropout), which reports a validation loss of 1.88:

    transformer    CausalTransformer; what NanoEBM computes with System 1 alone
    nano           NanoEBM, System 2 of --think-steps steps with an interaction of 256 units;
                   feed-forwards narrower by as much, so that it has as many parameters as
                   transformer
    nano-one       the same of one step, which leaves more time for learning
    nano-spectral  nano, each step at most c / lambda_max
    ebt-one        EnergyTransformer of one step: System 1 alone
    ebt            EnergyTransformer of --think-steps steps
    ebt-spectral   ebt, each step at most c / lambda_max

The training loop is a script's own, not `ebm train`: the seconds are for learning and scoring
together, and what families share in the product's trainer (checkpoints, evaluation) would count.

Each is then scored with no, one and three times as many steps too, and with either step size.
Losses are nats a character over consecutive blocks of 64 at the beginning of the validation text
(the last tenth), without anything before a block, as nanoGPT scores; --valid-tokens 0 scores all of
it. The result file is written after each model is scored.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from _common import Claim, parse_arguments, print_table, write_result

from ebm_wgpu.evaluation.perplexity import perplexity_of
from ebm_wgpu.models.base import LanguageModel
from ebm_wgpu.models.causal_transformer import CausalTransformer
from ebm_wgpu.models.energy_transformer import EnergyTransformer
from ebm_wgpu.models.energy_transformer_config import EnergyTransformerConfig, StepRule
from ebm_wgpu.models.nano_ebm import NanoEBM
from ebm_wgpu.models.nano_ebm_config import NanoEBMConfig
from ebm_wgpu.models.transformer_config import TransformerConfig
from ebm_wgpu.text.corpora import load_corpus
from ebm_wgpu.text.datasets import BlockDataset, TokenStream, evaluation_batches
from ebm_wgpu.text.tokenizers import make_tokenizer

BLOCK, BATCH = 64, 12
SHAPE = TransformerConfig(dim=128, n_layers=4, n_heads=4, max_length=BLOCK)
UNITS = 256
WARMUP_STEPS, LAST_RATE = 100, 0.02
REFERENCE = 1.88
TURN_SECONDS = 5.0
"""What a model learns for before it is another's turn."""


@dataclasses.dataclass(frozen=True)
class Texts:
    """Both texts as character ids, and the id that stands before the first character."""

    train: TokenStream
    valid: TokenStream
    start_id: int

    @classmethod
    def load(cls, valid_tokens: int) -> Texts:
        """Tiny Shakespeare as it ships with the package; 0 validation tokens are all."""
        train, valid = (load_corpus("shakespeare", split) for split in ("train", "valid"))
        tokenizer = make_tokenizer("char", train, None)
        text = valid[:valid_tokens] if valid_tokens else valid
        return cls(
            TokenStream.from_text(train, tokenizer),
            TokenStream.from_text(text, tokenizer),
            tokenizer.start_id,
        )


def nano(vocab: int, steps: int, rule: StepRule = "learned") -> NanoEBM:
    """A NanoEBM that trains with `steps` steps, of as many parameters as the CausalTransformer."""
    config = NanoEBMConfig(think_steps=steps, step_rule=rule, interaction=UNITS)
    # A unit of the interaction, and one of a feed-forward in each layer, have 2 x dim weights.
    hidden = SHAPE.hidden_units - UNITS // SHAPE.n_layers
    return NanoEBM(dataclasses.replace(SHAPE, hidden=hidden), config, vocab)


def energy_transformer(vocab: int, steps: int, rule: StepRule = "learned") -> EnergyTransformer:
    """An EnergyTransformer of the common shape that trains with `steps` steps."""
    config = EnergyTransformerConfig(
        dim=SHAPE.dim,
        n_layers=SHAPE.n_layers,
        n_heads=SHAPE.n_heads,
        max_length=BLOCK,
        min_steps=steps,
        max_steps=steps,
        step_rule=rule,
    )
    return EnergyTransformer(config, vocab)


CONTENDERS: Mapping[str, Callable[[int, int], LanguageModel]] = MappingProxyType(
    {
        "transformer": lambda vocab, steps: CausalTransformer(SHAPE, vocab),
        "nano": nano,
        "nano-one": lambda vocab, steps: nano(vocab, 1),
        "nano-spectral": lambda vocab, steps: nano(vocab, steps, "spectral"),
        "ebt-one": lambda vocab, steps: energy_transformer(vocab, 1),
        "ebt": energy_transformer,
        "ebt-spectral": lambda vocab, steps: energy_transformer(vocab, steps, "spectral"),
    }
)
"""Models by name, from the number of characters and of think steps."""


def rate_factor(step: int, share: float) -> float:
    """Learning rate over its peak at `step`, when `share` of the time is over: half a cosine."""
    cosine = 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))
    return min(1.0, (step + 1) / WARMUP_STEPS) * (LAST_RATE + (1 - LAST_RATE) * cosine)


def initialize(model: LanguageModel, texts: Texts, seed: int) -> None:
    """First values, which follow the character frequencies."""
    ids = texts.train.tokens
    model.initialize(ids, np.bincount(ids, minlength=texts.train.vocab_size), seed)


class Learner:
    """A model that learns for a time, in turns.

    Attributes:
        model: the model.
        steps: training steps so far.
        taken: seconds they took.
    """

    def __init__(
        self, model: LanguageModel, texts: Texts, seconds: float, lr: float, seed: int
    ) -> None:
        """Nothing is learned yet; `lr` is the peak rate, `seconds` what all turns last."""
        self.model, self.steps, self.taken = model, 0, 0.0
        self._seconds, self._lr = seconds, lr
        matrices = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
        others = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
        groups: list[dict[str, Any]] = [
            {"params": matrices},
            {"params": others, "weight_decay": 0.0},
        ]
        self._optimizer = torch.optim.AdamW(
            groups, lr=lr, betas=(0.9, 0.99), weight_decay=0.1, fused=True
        )
        self._batches = BlockDataset(texts.train, BLOCK, BATCH, seed)

    @property
    def goes_on(self) -> bool:
        """Whether there is time left."""
        return self.taken < self._seconds

    def learn(self, seconds: float) -> None:
        """One turn; it ends with the time of all turns, too."""
        self.model.train()
        begin, before = time.perf_counter(), self.taken
        while self.taken < min(before + seconds, self._seconds):
            self._step()
            self.taken = before + time.perf_counter() - begin
        self.model.eval()

    def _step(self) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = self._lr * rate_factor(self.steps, self.taken / self._seconds)
        tokens = torch.from_numpy(self._batches.next_batch()).long()
        terms = self.model.losses(tokens, seed=self.steps)
        weights = self.model.loss_weights
        minimised = [weight * terms[name] for name, weight in weights.items() if name in terms]
        torch.stack(minimised).sum().backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self.steps += 1


@torch.no_grad()
def loss(model: LanguageModel, texts: Texts) -> float:
    """Validation loss, nats a character."""
    total, count = 0.0, 0
    for window in evaluation_batches(texts.valid, BLOCK, BLOCK, 128, texts.start_id):
        tokens = torch.from_numpy(window.tokens).long()
        scored = torch.from_numpy(window.scored)
        log_probs = model.token_log_probs(tokens[:, :-1], tokens[:, 1:])[scored]
        total -= float(log_probs.double().sum())
        count += len(log_probs)
    return total / count


Way = tuple[int | None, StepRule | None]
"""A number of think steps and a rule of their size, for models that think."""
RULES: tuple[StepRule, ...] = ("learned", "spectral")


def own_way(model: LanguageModel) -> Way:
    """How a model thinks in training."""
    if isinstance(model, NanoEBM):
        return model.nano.think_steps, model.nano.step_rule
    if isinstance(model, EnergyTransformer):
        return model.config.max_steps, model.config.step_rule
    return None, None


def other_ways(model: LanguageModel) -> list[Way]:
    """No steps, one, and as many and three times as many as in training, by either rule."""
    steps, own = own_way(model)
    if steps is None:
        return []
    counts = sorted({1, steps, 3 * steps})
    ways: list[Way] = [(count, rule) for rule in RULES for count in counts]
    none: list[Way] = [(0, own)] if isinstance(model, NanoEBM) else []
    return [way for way in none + ways if way != (steps, own)]


def think(model: LanguageModel, way: Way) -> None:
    """Have a model think in that way from now on."""
    steps, rule = way
    if steps is not None:
        model.think(steps, step_rule=rule)


def score(model: LanguageModel, texts: Texts, way: Way) -> dict[str, Any]:
    """The figures of a model that thinks in that way."""
    think(model, way)
    begin = time.perf_counter()
    nats = loss(model, texts)
    return {
        "think steps": "" if way[0] is None else way[0],
        "step size": way[1] or "",
        "nats": nats,
        "perplexity": perplexity_of(nats),
        "score s": time.perf_counter() - begin,
    }


def learner(name: str, texts: Texts, arguments: argparse.Namespace) -> Learner:
    """A contender before its first turn; what its scoring takes is off its time."""
    model = CONTENDERS[name](texts.train.vocab_size, arguments.think_steps)
    initialize(model, texts, arguments.seed)
    model.eval()
    scoring = score(model, texts, own_way(model))["score s"]
    seconds = max(arguments.seconds - scoring, 0.1 * arguments.seconds)
    lr = arguments.ebt_lr if isinstance(model, EnergyTransformer) else arguments.lr
    return Learner(model, texts, seconds, lr, arguments.seed)


def scores(name: str, learned: Learner, texts: Texts) -> list[dict[str, Any]]:
    """A model that has learned, scored in every way, its own first."""
    model = learned.model
    rows = []
    for way in (own_way(model), *other_ways(model)):
        found = score(model, texts, way)
        trained = {"model": name, "parameters": model.n_parameters(), "steps": learned.steps}
        in_all = learned.taken + found["score s"]
        rows.append({**trained, **found, "train s": learned.taken, "in all s": in_all})
    return rows


def claims(rows: list[dict[str, Any]], think_steps: int) -> list[Claim]:
    """What the rows prove or refute; what was not trained is left out."""
    nats = {(row["model"], row["think steps"], row["step size"]): row["nats"] for row in rows}
    transformer, ebt_one = ("transformer", "", ""), ("ebt-one", 1, "learned")
    found = []
    for model, steps, rule, least, alone in (
        ("nano", think_steps, "learned", 0, transformer),
        ("nano-one", 1, "learned", 0, transformer),
        ("nano-spectral", think_steps, "spectral", 0, transformer),
        ("ebt", think_steps, "learned", 1, ebt_one),
        ("ebt-spectral", think_steps, "spectral", 1, ebt_one),
    ):
        own = (model, steps, rule)
        for what, other, sign in (
            ("System 2 minus System 1 of the same weights", (model, least, rule), 1),
            ("System 2 minus System 1 alone, of equal time", alone, 1),
            ("three times the steps minus those trained", (model, 3 * steps, rule), -1),
        ):
            if own in nats and other in nats:
                gain = sign * (nats[own] - nats[other])
                found.append(Claim(f"{model}: {what}", gain, 0.0, "nats", at_most=True))
    for what, key in (
        ("CausalTransformer", transformer),
        ("NanoEBM, System 2", ("nano", think_steps, "learned")),
    ):
        if key in nats:
            found.append(Claim(f"{what}, loss", nats[key], REFERENCE, "nats", at_most=True))
    return found


def main() -> None:
    arguments = parse_arguments(
        "char_lm",
        __doc__,
        models=",".join(CONTENDERS),
        seconds=120.0,
        threads=2,
        lr=4e-3,
        ebt_lr=2e-3,
        think_steps=2,
        valid_tokens=16384,
        seed=0,
    )
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    texts = Texts.load(arguments.valid_tokens)
    learners = {name: learner(name, texts, arguments) for name in arguments.models.split(",")}
    while waiting := [each for each in learners.values() if each.goes_on]:
        for each in waiting:
            each.learn(TURN_SECONDS)
    rows: list[dict[str, Any]] = []
    for name, each in learners.items():
        rows += scores(name, each, texts)
        payload = {
            "settings": {k: v for k, v in vars(arguments).items() if k != "output"},
            "block": BLOCK,
            "batch": BATCH,
            "rows": rows,
        }
        found = claims(rows, arguments.think_steps)
        write_result("char_lm", payload, claims=found, output=arguments.output)
    print_table(
        f"validation loss, nats a character; {arguments.seconds:g} s to learn and to score as "
        f"trained, on {arguments.threads} threads",
        rows,
    )


if __name__ == "__main__":
    main()
