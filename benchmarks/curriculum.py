"""Does the curriculum cover the text, need fewer and fewer new splats, and explain the score?

The preset trains with its curriculum and, for as long each, with its phases at one temperature
("flat") and with all of its splats from the start ("none"). A row is a phase, or such a run, as its
last evaluation found it, at its temperature T: coverage is the share of the training text whose
token has a splat in use; "critical" the share of training states that ask for a new splat, because
the splats give the token that followed less than its frequency; "expl." the part of the score that
could be explained and was, at each noise level.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from _common import Claim, parse_arguments, print_table, write_result
from language_model import ebm

from ebm_wgpu.errors import DataError
from ebm_wgpu.kernels import open_device
from ebm_wgpu.presets import preset

Record = Mapping[str, Any]


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


def main() -> None:
    arguments = parse_arguments(
        "curriculum",
        __doc__,
        preset="prototype",
        minutes=4.0,
        device="numba",
        eval_every=20,
        seed=0,
    )
    with tempfile.TemporaryDirectory() as folder:
        grown = train(Path(folder) / "curriculum", arguments)
        flat = train(Path(folder) / "flat", arguments, "curriculum.temperatures=1,1,1")
        none = train(Path(folder) / "none", arguments, "curriculum.splats=none")
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
    device = open_device(arguments.device)
    print_table(f"{arguments.preset}, {arguments.minutes:g} minutes each", rows)
    setting = {
        "preset": arguments.preset,
        "minutes": arguments.minutes,
        "growth": [line["growth"] for line in grown if "growth" in line],
        "curriculum": json.loads(preset(arguments.preset).to_json())["curriculum"],
    }
    payload = {"rows": rows, "setting": setting}
    write_result("curriculum", payload, device, claims=claims, output=arguments.output)


if __name__ == "__main__":
    main()
