"""Composition and negation learned from phrases of WikiText-2, judged by retrieval on others.

A splat model (a run given, or one trained here) places frequent phrases of two words and their
parts on the sphere. Phrases whose first word is held out are what is composed; each guess is
compared with the latents of all of them. Beside the net: the second part (for the first: the
phrase) as it is, which is most of what a language model remembers, and the two maps that need no
learning.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from _common import Claim, parse_arguments, print_table, write_result

from ebm_wgpu.composition import compose, negate
from ebm_wgpu.embedding import TextEmbedder
from ebm_wgpu.kernels import KernelDevice, open_device
from ebm_wgpu.models.composition import (
    Phrase,
    PhraseLatents,
    frequent_phrases,
    retrieval,
    train_composition,
)
from ebm_wgpu.text.corpora import load_corpus
from ebm_wgpu.training.loading import load_run

HELD_OUT = 0.2


def open_embedder(run: Path, device: KernelDevice) -> TextEmbedder:
    loaded = load_run(run, device)
    return TextEmbedder(loaded.model, loaded.tokenizer, device, loaded.config.data.eval_context)


def latents_of(embedder: TextEmbedder, phrases: list[Phrase]) -> PhraseLatents:
    texts = sorted({part for phrase in phrases for part in phrase})
    place = {text: i for i, text in enumerate(texts)}
    directions = embedder.embed(texts).direction
    columns = [
        directions[[place[text] for text in column]] for column in zip(*phrases, strict=True)
    ]
    return PhraseLatents(*columns)


def main() -> None:
    arguments = parse_arguments(
        "composition",
        __doc__,
        device="numba",
        run="",
        preset="nano",
        minutes=3.0,
        phrases=4000,
        steps=600,
    )
    device = open_device(arguments.device)
    with tempfile.TemporaryDirectory() as folder:
        run = Path(arguments.run or Path(folder) / "run")
        if not arguments.run:
            command = [str(Path(sys.executable).with_name("ebm")), "train", "--config",
                       arguments.preset, "--dataset", "wikitext-2", "--run", str(run), "--device",
                       arguments.device, f"train.max_minutes={arguments.minutes}"]  # fmt: skip
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        embedder = open_embedder(run, device)
    phrases = frequent_phrases(load_corpus("wikitext-2", "train"), arguments.phrases)
    everything, base = latents_of(embedder, phrases), embedder.base_point()
    rng = np.random.default_rng(0)
    words = sorted({phrase.first for phrase in phrases})
    kept_back = set(rng.choice(words, int(HELD_OUT * len(words)), replace=False).tolist())
    held = np.array([phrase.first in kept_back for phrase in phrases])
    train, test = everything.rows(np.flatnonzero(~held)), everything.rows(np.flatnonzero(held))
    torch.manual_seed(0)
    net = train_composition(train, base, steps=arguments.steps)
    a, b, p = test.first, test.second, test.whole
    not_b = negate(b, base)
    guesses = {
        "one part alone": (b, p),
        "geodesic": (
            compose(a, b, base, method="geodesic"),
            compose(p, not_b, base, method="geodesic"),
        ),
        "tangent sum": (compose(a, b, base), compose(p, not_b, base)),
        "net": (net.compose(a, b), net.compose(p, not_b)),
    }
    rows = []
    for name, (composed, taken) in guesses.items():
        up, down = retrieval(composed, p), retrieval(taken, a)
        rows.append(
            {
                "composition": name,
                **{f"phrase {key}": value for key, value in asdict(up).items()},
                **{f"part {key}": value for key, value in asdict(down).items()},
            }
        )
    print_table(
        f"{len(train)} phrases learned from, {len(test)} held out, {device.description}",
        [{"": key} | {row["composition"]: row[key] for row in rows} for key in list(rows[0])[1:]],
    )
    best = {
        kind: max(row[f"{kind} reciprocal_rank"] for row in rows[:-1])
        for kind in ("phrase", "part")
    }
    claims = [
        Claim(
            f"held-out {kind}s, reciprocal rank of the net over the best other",
            rows[-1][f"{kind} reciprocal_rank"] / best[kind],
            1.0,
        )
        for kind in best
    ]
    settings = {key: value for key, value in vars(arguments).items() if key != "output"}
    payload = {
        "settings": settings,
        "learned_from": len(train),
        "held_out": len(test),
        "rows": rows,
    }
    write_result("composition", payload, device, claims=claims, output=arguments.output)


if __name__ == "__main__":
    main()
