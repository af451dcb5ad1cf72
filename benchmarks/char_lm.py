"""Tiny Shakespeare, characters: does thinking (System 2) pay, at equal weights and at equal time?

Every model is trained from scratch for the same number of seconds, on the same batches, with the
shape of nanoGPT's small CPU setting (4 layers, 4 heads, 128 wide, blocks of 64, batches of 12, no
dropout), which reports a validation loss of 1.88:

    transformer   CausalTransformer; the same computation as NanoEBM with System 1 alone
    nano          NanoEBM, System 2 of --think-steps steps
    ebt           EnergyTransformer of --think-steps steps
    ebt-one       EnergyTransformer of one step: System 1 alone
    ebt-spectral  EnergyTransformer of --think-steps steps, each at most c / lambda_max

Each is then scored with other numbers of steps too, up to --most-steps, and ebt with the spectral
bound as well. Losses are nats a character over consecutive blocks of 64 at the beginning of the
validation text (the last tenth), without anything before a block, as nanoGPT scores;
--valid-tokens 0 scores all of it.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import torch
from _common import Claim, parse_arguments, print_table, write_result

from ebm_wgpu.models.base import LanguageModel
from ebm_wgpu.models.causal_transformer import CausalTransformer
from ebm_wgpu.models.energy_transformer import EnergyTransformer
from ebm_wgpu.models.energy_transformer_config import EnergyTransformerConfig
from ebm_wgpu.models.nano_ebm import NanoEBM
from ebm_wgpu.models.nano_ebm_config import NanoEBMConfig
from ebm_wgpu.models.transformer_config import TransformerConfig
from ebm_wgpu.text.corpora import load_corpus
from ebm_wgpu.text.datasets import BlockDataset, TokenStream, evaluation_batches
from ebm_wgpu.text.tokenizers import make_tokenizer

BLOCK, BATCH = 64, 12
SHAPE = TransformerConfig(dim=128, n_layers=4, n_heads=4, max_length=BLOCK)
WARMUP_STEPS, LAST_RATE = 100, 0.02
REFERENCE = 1.88


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


def energy_transformer(
    vocab: int, steps: int, rule: Literal["learned", "spectral"] = "learned"
) -> EnergyTransformer:
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
        "nano": lambda vocab, steps: NanoEBM(SHAPE, NanoEBMConfig(think_steps=steps), vocab),
        "ebt": energy_transformer,
        "ebt-one": lambda vocab, steps: energy_transformer(vocab, 1),
        "ebt-spectral": lambda vocab, steps: energy_transformer(vocab, steps, "spectral"),
    }
)
"""Models by name, from the number of characters and of think steps."""


def rate_factor(step: int, share: float) -> float:
    """Learning rate over its peak at `step`, when `share` of the time is over: half a cosine."""
    cosine = 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))
    return min(1.0, (step + 1) / WARMUP_STEPS) * (LAST_RATE + (1 - LAST_RATE) * cosine)


def train(model: LanguageModel, texts: Texts, seconds: float, lr: float, seed: int) -> int:
    """Train for `seconds`; returns the number of steps."""
    ids = texts.train.tokens
    model.initialize(ids, np.bincount(ids, minlength=texts.train.vocab_size), seed)
    model.train()
    torch.manual_seed(seed)
    matrices = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    others = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
    groups: list[dict[str, Any]] = [
        {"params": matrices},
        {"params": others, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(
        groups,
        lr=lr,
        betas=(0.9, 0.99),
        weight_decay=0.1,
        fused=True,
    )
    weights = model.loss_weights
    batches = BlockDataset(texts.train, BLOCK, BATCH, seed)
    step, begin = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - begin) < seconds:
        for group in optimizer.param_groups:
            group["lr"] = lr * rate_factor(step, elapsed / seconds)
        terms = model.losses(torch.from_numpy(batches.next_batch()).long(), seed=step)
        minimised = [weight * terms[name] for name, weight in weights.items() if name in terms]
        torch.stack(minimised).sum().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
    model.eval()
    return step


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


def thinking(model: LanguageModel, most_steps: int) -> Iterator[tuple[int | None, str]]:
    """Sets the model to each way of thinking there is; gives its steps and rule."""
    if isinstance(model, NanoEBM):
        for steps in range(most_steps + 1):
            model.think(steps)
            yield steps, "learned"
    elif isinstance(model, EnergyTransformer):
        config = model.config
        rules = {config.step_rule} if config.max_steps == 1 else {config.step_rule, "spectral"}
        for rule in sorted(rules):
            for steps in range(1, most_steps + 1):
                model.thinking = dataclasses.replace(model.thinking, steps=steps, step_rule=rule)
                yield steps, rule
    else:
        yield None, ""


def scores(model: LanguageModel, texts: Texts, most_steps: int) -> Iterator[dict[str, Any]]:
    """A row for each way of thinking."""
    for steps, rule in thinking(model, most_steps):
        begin = time.perf_counter()
        nats = loss(model, texts)
        yield {
            "think steps": "" if steps is None else steps,
            "step size": rule,
            "nats": nats,
            "perplexity": math.exp(nats),
            "scored/s": len(texts.valid) / (time.perf_counter() - begin),
        }


def claims(rows: list[dict[str, Any]], think_steps: int) -> list[Claim]:
    """What the rows prove or refute; what was not trained is left out."""
    nats = {(row["model"], row["think steps"], row["step size"]): row["nats"] for row in rows}
    transformer, nano = ("transformer", "", ""), ("nano", think_steps, "learned")
    ebt, one = ("ebt", think_steps, "learned"), ("ebt-one", 1, "learned")
    spectral = ("ebt-spectral", think_steps, "spectral")
    found = []
    for what, first, second in (
        ("NanoEBM, System 2 minus System 1 of the same weights", nano, ("nano", 0, "learned")),
        ("NanoEBM, System 2 minus System 1 alone at equal time", nano, transformer),
        ("EBT, System 2 minus one step of the same weights", ebt, ("ebt", 1, "learned")),
        ("EBT, System 2 minus one step alone at equal time", ebt, one),
        ("EBT, spectral System 2 minus one step alone at equal time", spectral, one),
        (
            "EBT, three times the steps minus the steps trained, learned step size",
            ("ebt", 3 * think_steps, "learned"),
            ebt,
        ),
        (
            "EBT, three times the steps minus the steps trained, spectral step",
            ("ebt-spectral", 3 * think_steps, "spectral"),
            spectral,
        ),
    ):
        if first in nats and second in nats:
            found.append(Claim(what, nats[first] - nats[second], 0.0, "nats", at_most=True))
    for what, key in (("CausalTransformer", transformer), ("NanoEBM, System 2", nano)):
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
        most_steps=6,
        valid_tokens=32768,
        seed=0,
    )
    torch.set_num_threads(arguments.threads)
    texts = Texts.load(arguments.valid_tokens)
    rows = []
    for name in arguments.models.split(","):
        model = CONTENDERS[name](texts.train.vocab_size, arguments.think_steps)
        lr = arguments.ebt_lr if isinstance(model, EnergyTransformer) else arguments.lr
        steps = train(model, texts, arguments.seconds, lr, arguments.seed)
        trained = {"model": name, "parameters": model.n_parameters(), "steps": steps}
        rows += [trained | row for row in scores(model, texts, arguments.most_steps)]
    print_table(
        f"validation loss, nats a character, after {arguments.seconds:g} s of training on "
        f"{arguments.threads} threads",
        rows,
    )
    payload = {
        "settings": vars(arguments) | {"output": str(arguments.output)},
        "block": BLOCK,
        "batch": BATCH,
        "rows": rows,
    }
    write_result(
        "char_lm",
        payload,
        claims=claims(rows, arguments.think_steps),
        output=arguments.output,
    )


if __name__ == "__main__":
    main()
