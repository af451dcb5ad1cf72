"""Does the curriculum cover the text, need fewer and fewer new splats, and explain the score?

The preset trains with its curriculum and, for as long each, with its phases at one temperature
("flat") and with all of its splats from the start ("none"). A row is a phase, or such a run, as its
last evaluation found it, at its temperature T: coverage is the share of the training text whose
token has a splat in use; "critical" the share of training states that ask for a new splat, because
the splats give the token that followed less than its frequency; "expl." the part of the score that
could be explained and was, at each noise level. Evaluations, and the reading of states for
"critical" that runs with phases do at each of them, are part of the minutes.

The second table says what limits that part, at the same positions after the curriculum: the splats
as they are ("splats"); the same splats as sharp as model.kappa_max allows ("sharp"); points at the
directions of all tokens, weighted by the model's own probabilities of the next token ("tokens"),
which is the exact score of whoever believes these; and the same weighted by how frequent tokens are
("frequencies"). Points do better than the floor, which takes the directions of a token's uses to
spread about its splat: here they are one point.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _common import Claim, parse_arguments, print_table, write_result
from language_model import ebm

from ebm_wgpu.errors import DataError
from ebm_wgpu.evaluation.latents import spread_windows
from ebm_wgpu.kernels import KernelDevice, open_device
from ebm_wgpu.presets import preset
from ebm_wgpu.training.loading import load_run
from ebm_wgpu.training.run_data import RunData
from ebm_wgpu.training.score_matching import (
    Mixture,
    Score,
    TiltedMixture,
    denoising_loss,
    explained_share,
    noise_levels,
    tangent,
)

Record = Mapping[str, Any]
EXPLAINED = (
    "(1 - loss) / (1 - floor), of validation text. loss: mean of |score - target|^2 / (k (d-1) "
    "A(k)) over positions whose next token's direction x was moved to a draw of vMF(k x), with the "
    "exact target k P x; 1 for a score of zero. floor: 1 - k_c A(k_c) / (k A(k)), A(k_c) = A_c "
    "A(k), with A_c the mean cosine of x to the component of the tilted splats that it belongs to: "
    "the loss of a score that knows this component"
)
"""How "expl." is computed."""


def train(run: Path, arguments: Any, *overrides: str) -> list[Record]:
    """Train for the minutes; the lines of metrics."""
    ebm(
        "train", "--config", arguments.preset, "--run", run, "--device", arguments.device,
        f"train.max_minutes={arguments.minutes}", f"train.seed={arguments.seed}",
        f"train.eval_every={arguments.eval_every}", "train.eval_tokens=8192",
        "train.checkpoint_every=1000000", *overrides,
    )  # fmt: skip
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def row(name: str, lines: Sequence[Record], begin: int) -> dict[str, Any]:
    """A phase by its lines of metrics; `begin` is the step it began after.

    Raises:
        DataError: it was never evaluated.
    """
    scored = [line for line in lines if "valid" in line]
    if not scored:
        raise DataError(f"phase {name} ended before it was evaluated: give more --minutes")
    growth = [line["growth"] for line in lines if "growth" in line]
    last, born = scored[-1], sum(event["to"] - event["from"] for event in growth)
    levels = last["valid"]["score_matching"]
    return {
        "phase": name,
        "T": last.get("phase", {}).get("temperature", 1.0),
        "splats": last["splats"]["count"],
        "steps": last["step"] - begin,
        "new/step": born / (last["step"] - begin),
        "critical": last.get("soc", {}).get("critical"),
        "coverage": last["splats"]["coverage"],
        "active": last["splats"]["active"] / last["splats"]["count"],
        "ppl": last["valid"]["token_perplexity"],
        **{f"expl. {level['kappa']:g}": level["explained"] for level in levels},
    }


def token_points(table: torch.Tensor, log_p: torch.Tensor) -> Score:
    """The score of points at directions (V, d) with log probabilities (B, V) or (V,), smoothed.

    With noise k it is k P_x~ sum_w q_w e_w, q_w ~ p_w exp(k x~.e_w): exact where p is true.
    """

    def score(noisy: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        share = torch.softmax(log_p + noise * (noisy @ table.T), 1)
        return tangent(noisy, noise * (share @ table))

    return score


@torch.no_grad()
def limits(run: Path, device: KernelDevice, positions: int) -> list[dict[str, Any]]:
    """A row for each noise level: floor, and losses and explained shares of three scores."""
    loaded = load_run(run, device, "last")
    model, config = loaded.model.splat_model, loaded.config
    assert model is not None
    data = RunData.load(config, loaded.tokenizer)
    windows = spread_windows(data.valid, config.data.block_size + 1, positions)
    before, targets = windows[:, :-1], windows[:, -1]
    h = model.features(before).h[:, -1].contiguous()
    x, table = model.token_latents(targets), model.token_latents(torch.arange(model.vocab_size))
    mixture = TiltedMixture(Mixture(*model.splats(), h), model.product)
    frequencies = torch.from_numpy(data.token_counts + 1.0).float()
    sharp = torch.full_like(mixture.mixture.a, config.model.kappa_max * (x.shape[1] - 1))
    references = {
        "sharp": TiltedMixture(replace(mixture.mixture, a=sharp), model.product).score,
        "tokens": token_points(table, model.next_token_log_probs(before)),
        "frequencies": token_points(table, (frequencies / frequencies.sum()).log()),
    }
    rows = []
    levels = noise_levels(mixture, x, config.train.dsm_levels, np.random.default_rng(0))
    for number, level in enumerate(levels):
        noise = x.new_full((len(x), 1), level.kappa * (x.shape[1] - 1))
        row = {
            "kappa": level.kappa,
            "positions": len(x),
            "floor": level.floor,
            "loss, splats": level.loss,
            "expl., splats": level.explained,
        }
        for name, score in references.items():
            loss = float(denoising_loss(x, noise, score, np.random.default_rng([1, number])).mean())
            row[f"loss, {name}"] = loss
            row[f"expl., {name}"] = explained_share(loss, level.floor)
        rows.append(row)
    return rows


def main() -> None:
    arguments = parse_arguments(
        "curriculum",
        __doc__,
        preset="prototype",
        minutes=4.0,
        device="numba",
        eval_every=25,
        positions=512,
        seed=0,
    )
    device = open_device(arguments.device)
    with tempfile.TemporaryDirectory() as folder:
        grown = train(Path(folder) / "curriculum", arguments)
        flat = train(Path(folder) / "flat", arguments, "curriculum.temperatures=1,1,1")
        none = train(Path(folder) / "none", arguments, "curriculum.splats=none")
        limiting = limits(Path(folder) / "curriculum", device, arguments.positions)
    rows, begin = [], 0
    phases = groupby(grown[1:], lambda line: line["phase"]["number"])
    for number, lines in ((number, list(lines)) for number, lines in phases):
        rows.append(row(str(number), lines, begin))
        begin = lines[-1]["step"]
    first, last, without = rows[0], rows[-1], row("none", none[1:], 0)
    rows += [row("flat", flat[1:], 0), without]
    explained = [share for name, share in last.items() if name.startswith("expl.")]
    claims = [
        Claim("coverage of the text by splats in use", last["coverage"], 0.8),
        Claim(
            "states that ask for a new splat, last phase over first",
            last["critical"] / first["critical"],
            1,
            at_most=True,
        ),
        Claim("explained share of the score, mean of levels", sum(explained) / len(explained), 0.9),
        Claim(
            "validation perplexity, curriculum over all splats from the start",
            last["ppl"] / without["ppl"],
            1,
            at_most=True,
        ),
    ]
    print_table(f"{arguments.preset}, {arguments.minutes:g} minutes each", rows)
    print_table(
        f"what of the score is explained, {limiting[0]['positions']} positions",
        [{key: line[key] for key in line if not key.startswith("loss")} for line in limiting],
    )
    setting = {
        "preset": arguments.preset,
        "minutes": arguments.minutes,
        "growth": [line["growth"] for line in grown if "growth" in line],
        "curriculum": json.loads(preset(arguments.preset).to_json())["curriculum"],
    }
    levels = {
        line["phase"]["number"] if "phase" in line else "none": line["valid"]["score_matching"]
        for line in (*none, *grown[1:])
        if "valid" in line
    }
    payload = {
        "rows": rows,
        "setting": setting,
        "explained": EXPLAINED,
        "levels": levels,
        "limits": limiting,
    }
    write_result("curriculum", payload, device, claims=claims, output=arguments.output)


if __name__ == "__main__":
    main()
