"""Tiny Shakespeare, characters, at equal wall clock: CausalTransformer and NanoEBM, System 1 and 2.

Both are trained from scratch for the same number of seconds, on the same batches, with the shape of
nanoGPT's small CPU setting (4 layers, 4 heads, 128 wide, blocks of 64, batches of 12, no dropout),
which reports a validation loss of 1.88. Losses are nats a character over the whole validation text
(the last tenth): "blocks" scores consecutive blocks of 64 as nanoGPT does, without anything before
a block; "sliding" gives each character at least 33 before it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from _common import Claim, parse_arguments, print_table, write_result

from ebm_wgpu.models.causal_transformer import CausalTransformer
from ebm_wgpu.models.nano_ebm import NanoEBM
from ebm_wgpu.models.nano_ebm_config import NanoEBMConfig
from ebm_wgpu.models.transformer_config import TransformerConfig
from ebm_wgpu.models.transformer_lm import TransformerLM
from ebm_wgpu.text.corpora import load_corpus
from ebm_wgpu.text.datasets import BlockDataset, TokenStream, evaluation_batches
from ebm_wgpu.text.tokenizers import make_tokenizer

BLOCK, BATCH = 64, 12
SLIDING_STRIDE = 32
SHAPE = TransformerConfig(dim=128, n_layers=4, n_heads=4, max_length=BLOCK)
WARMUP_STEPS, LAST_RATE = 100, 0.02
REFERENCE = 1.88


@dataclass(frozen=True)
class Texts:
    """Both texts as character ids, and the id that stands before the first character."""

    train: TokenStream
    valid: TokenStream
    start_id: int

    @classmethod
    def load(cls) -> Texts:
        """Tiny Shakespeare as it ships with the package."""
        train, valid = (load_corpus("shakespeare", split) for split in ("train", "valid"))
        tokenizer = make_tokenizer("char", train, None)
        streams = (TokenStream.from_text(text, tokenizer) for text in (train, valid))
        return cls(*streams, tokenizer.start_id)


def rate_factor(step: int, share: float) -> float:
    """Learning rate over its peak at `step`, when `share` of the time is over: half a cosine."""
    cosine = 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))
    return min(1.0, (step + 1) / WARMUP_STEPS) * (LAST_RATE + (1 - LAST_RATE) * cosine)


def train(model: TransformerLM, texts: Texts, seconds: float, lr: float, seed: int) -> int:
    """Train for `seconds` including the start; returns the number of steps."""
    begin = time.perf_counter()
    ids = texts.train.tokens
    model.initialize(ids, np.bincount(ids, minlength=texts.train.vocab_size), seed)
    torch.manual_seed(seed)
    matrices = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    others = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices}, {"params": others, "weight_decay": 0.0}],
        lr=lr,
        betas=(0.9, 0.99),
        weight_decay=0.1,
        fused=True,
    )
    weights = model.loss_weights
    batches = BlockDataset(texts.train, BLOCK, BATCH, seed)
    step = 0
    while (elapsed := time.perf_counter() - begin) < seconds:
        for group in optimizer.param_groups:
            group["lr"] = lr * rate_factor(step, elapsed / seconds)
        terms = model.losses(torch.from_numpy(batches.next_batch()).long(), seed=step)
        total = torch.stack([weights[name] * term for name, term in terms.items()]).sum()
        total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
    return step


@torch.no_grad()
def losses(
    model: TransformerLM, texts: Texts, stride: int, thinking: Sequence[int | None]
) -> list[float]:
    """Validation loss, nats a character, with System 2 at each of the numbers of steps."""
    totals, count = [0.0] * len(thinking), 0
    for window in evaluation_batches(texts.valid, BLOCK, stride, 128, texts.start_id):
        tokens = torch.from_numpy(window.tokens).long()
        scored = torch.from_numpy(window.scored)
        h = model.backbone(tokens[:, :-1])[scored]
        targets = tokens[:, 1:][scored][:, None]
        for index, steps in enumerate(thinking):
            log_probs = (
                model.log_probs(h, steps) if isinstance(model, NanoEBM) else model.log_probs(h)
            )
            totals[index] -= float(log_probs.gather(1, targets).double().sum())
        count += len(h)
    return [total / count for total in totals]


def main() -> None:
    arguments = parse_arguments(
        "char_lm", __doc__, seconds=120.0, threads=2, lr=4e-3, think_steps=2, seed=0
    )
    torch.set_num_threads(arguments.threads)
    texts = Texts.load()
    vocab = texts.train.vocab_size
    nano = NanoEBMConfig(think_steps=arguments.think_steps)
    baseline, thinker = CausalTransformer(SHAPE, vocab), NanoEBM(SHAPE, nano, vocab)
    steps = {
        id(model): train(model, texts, arguments.seconds, arguments.lr, arguments.seed)
        for model in (baseline, thinker)
    }
    thinking = (0, nano.think_steps, 2 * nano.think_steps)
    names = ["System 1", *(f"System 2, {count} steps" for count in thinking[1:])]
    rows = []
    for model, labels, choices in (
        (baseline, ["CausalTransformer"], (None,)),
        (thinker, [f"NanoEBM, {name}" for name in names], thinking),
    ):
        blocks, sliding = (losses(model, texts, s, choices) for s in (BLOCK, SLIDING_STRIDE))
        rows += [
            {
                "model": label,
                "parameters": model.parameter_count()["total"],
                "seconds": arguments.seconds,
                "steps": steps[id(model)],
                "blocks": in_blocks,
                "sliding": in_sliding,
            }
            for label, in_blocks, in_sliding in zip(labels, blocks, sliding, strict=True)
        ]
    print_table(
        f"validation loss, nats a character, after {arguments.seconds:g} s on "
        f"{arguments.threads} threads",
        rows,
    )
    direct, first, second, _ = (row["blocks"] for row in rows)
    claims = [
        Claim("CausalTransformer, blocks", direct, REFERENCE, "nats", at_most=True),
        Claim("NanoEBM, System 2, blocks", second, REFERENCE, "nats", at_most=True),
        Claim("System 2 minus System 1 of the same weights", second - first, 0.0, at_most=True),
        Claim(
            "System 2 minus CausalTransformer at equal wall clock",
            second - direct,
            0.0,
            at_most=True,
        ),
    ]
    payload = {
        "settings": vars(arguments) | {"output": str(arguments.output)},
        "block": BLOCK,
        "batch": BATCH,
        "rows": rows,
    }
    write_result("char_lm", payload, claims=claims, output=arguments.output)


if __name__ == "__main__":
    main()
