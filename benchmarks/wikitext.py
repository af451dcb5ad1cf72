"""WikiText-2 by words: SplatLM against CausalTransformer at equal wall clock, static and online.

Both train for --minutes on the same text with the same backbone, softmax, optimiser, dropout and
precision, and neither sees the --heldout end of the training text, by which the gates of memories
are fitted. They take turns of --turn minutes, so that a machine with other work is as busy for one
as for the other; minutes are those of the training's own clock: initialisation, steps, evaluations
and checkpoints. SplatLM adds the splats of the context, learned with the model, and stored splats,
which consolidation makes of training states within the same minutes. All of the validation text is
then scored, each token once, without memory ("static") and with the same online memory for both
("online": the last --capacity states are splats whose id is the token that followed). Ablations
score SplatLM without stored splats, and by its decoder alone.

Runs of all the text and of 30 minutes or more add rows to the leaderboard. For an hour of a GPU:
--presets wikitext-splat-gpu,wikitext-transformer-gpu --minutes 60 --device wgpu.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from _common import (
    Claim,
    environment,
    hardware_name,
    parse_arguments,
    print_table,
    write_result,
)
from _leaderboard import add_rows
from _training import EBM_TRAIN, train_in_turns, trained_seconds

from ebm_wgpu.evaluation.online import OnlineReport, score_online
from ebm_wgpu.kernels import KernelDevice, open_device
from ebm_wgpu.models.splat_transformer import SplatTransformer
from ebm_wgpu.readers import reader_of
from ebm_wgpu.training.loading import LoadedRun, load_run
from ebm_wgpu.training.run_consolidation import consolidate_run
from ebm_wgpu.training.run_data import RunData

CONSOLIDATION_SHARE = 0.12
"""Share of SplatLM's minutes that its consolidation gets."""
LEADERBOARD_MINUTES = 30.0
"""Minutes of training from which on a run stands on the leaderboard."""
_CLOSED = -1e4


def command(preset: str, run: Path, minutes: float, arguments: Any) -> list[str]:
    """What trains a preset."""
    return [
        *EBM_TRAIN, "--config", preset, "--run", str(run),
        "--device", arguments.device, f"train.max_minutes={minutes}",
        f"train.seed={arguments.seed}", f"data.heldout_tokens={arguments.heldout}",
        f"memory.capacity={arguments.capacity}", *arguments.overrides.split(),
    ]  # fmt: skip


def consolidate(run: Path, device: KernelDevice, minutes: float) -> dict[str, Any]:
    """Consolidate SplatLM in what its training has left; what was done and how long it took."""
    taken = trained_seconds(run)
    start = time.perf_counter()
    report = consolidate_run(run, device, seconds=max(60 * minutes - taken, 1.0))
    return {
        "train_seconds": taken,
        "consolidation_seconds": time.perf_counter() - start,
        "consolidation": asdict(report),
    }


def row(model: str, run: LoadedRun, seconds: float, report: OnlineReport) -> dict[str, Any]:
    """A line of the table."""
    return {"model": model, **figures(run, seconds, report)}


def figures(run: LoadedRun, seconds: float, report: OnlineReport) -> dict[str, Any]:
    """What a line says of a run."""
    return {
        "parameters": run.model.n_parameters(),
        "steps": run.step,
        "seconds": seconds,
        "static ppl": report.static.token_perplexity,
        "online ppl": report.online.token_perplexity,
        "static bits/byte": report.static.bits_per_byte,
        "online bits/byte": report.online.bits_per_byte,
    }


def main() -> None:
    arguments = parse_arguments(
        "wikitext",
        __doc__,
        minutes=30.0,
        turn=5.0,
        threads=2,
        presets="wikitext-splat,wikitext-transformer",
        device="numba",
        heldout=32768,
        capacity=4096,
        tokens=0,
        seed=0,
        runs="",
        overrides="",
    )
    torch.set_num_threads(arguments.threads)
    device = open_device(arguments.device)
    splat_preset, plain_preset = arguments.presets.split(",")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(arguments.runs or temporary)
        folder.mkdir(parents=True, exist_ok=True)
        runs = {"SplatLM": folder / "splat", "CausalTransformer": folder / "transformer"}
        presets = {"SplatLM": splat_preset, "CausalTransformer": plain_preset}
        shares = {"SplatLM": 1 - CONSOLIDATION_SHARE, "CausalTransformer": 1.0}
        commands = {
            run: command(presets[name], run, shares[name] * arguments.minutes, arguments)
            for name, run in runs.items()
        }
        train_in_turns(commands, arguments.turn, arguments.threads)
        plain_seconds = trained_seconds(runs["CausalTransformer"])
        splat = consolidate(runs["SplatLM"], device, arguments.minutes)
        splat_seconds = splat["train_seconds"] + splat["consolidation_seconds"]
        loaded = {name: load_run(path, device) for name, path in runs.items()}
    data = RunData.load(loaded["SplatLM"].config, loaded["SplatLM"].tokenizer)
    valid, n_bytes = data.valid_prefix(arguments.tokens or None)

    def score(run: LoadedRun) -> OnlineReport:
        """Static and online figures, the memory fitted on held-out training text."""
        reader = reader_of(run.model)
        assert reader is not None
        return score_online(
            reader,
            data.heldout,
            valid,
            run.config,
            start_id=run.tokenizer.start_id,
            capacity=arguments.capacity,
            n_bytes=n_bytes,
        )

    reports = {name: score(run) for name, run in loaded.items()}
    seconds = {"SplatLM": splat_seconds, "CausalTransformer": plain_seconds}
    rows = [row(name, run, seconds[name], reports[name]) for name, run in loaded.items()]
    model = loaded["SplatLM"].model
    assert isinstance(model, SplatTransformer)
    store = model.stored_splats
    model.store_splats(None)
    ablated = {"SplatLM without stored splats": score(loaded["SplatLM"])}
    with torch.no_grad():
        model.context.gate.weight.zero_()
        model.context.gate.bias.fill_(_CLOSED)
    ablated["SplatLM, decoder alone"] = score(loaded["SplatLM"])
    rows += [
        row(name, loaded["SplatLM"], splat["train_seconds"], report)
        for name, report in ablated.items()
    ]
    print_table(
        f"WikiText-2 validation, {len(valid):,} words, {arguments.minutes:g} minutes each, "
        f"{arguments.threads} threads",
        rows,
    )
    static = {name: report.static.token_perplexity for name, report in reports.items()}
    online = {name: report.online.token_perplexity for name, report in reports.items()}
    claims = [
        Claim("SplatLM online", online["SplatLM"], 95, "ppl", at_most=True),
        Claim(
            "SplatLM static over CausalTransformer static",
            static["SplatLM"] / static["CausalTransformer"], 0.95, at_most=True,
        ),
        Claim(
            "SplatLM online over CausalTransformer online",
            online["SplatLM"] / online["CausalTransformer"], 1, at_most=True,
        ),
        Claim(
            "SplatLM online over CausalTransformer static",
            online["SplatLM"] / static["CausalTransformer"], 0.65, at_most=True,
        ),
        Claim("SplatLM's wall clock over the time given",
              splat_seconds / (60 * arguments.minutes), 1.03, at_most=True),
    ]  # fmt: skip
    payload = {
        "rows": rows,
        "setting": {
            "minutes": arguments.minutes, "threads": arguments.threads,
            "context": valid_setting(reports), "heldout_tokens": arguments.heldout,
            "n_words": valid.n_words, "stored_splats": 0 if store is None else len(store),
        },
        "splat": splat,
        "memory": {name: report.settings for name, report in {**reports, **ablated}.items()},
        "static": {n: r.static.summary() for n, r in {**reports, **ablated}.items()},
        "online": {n: r.online.summary() for n, r in {**reports, **ablated}.items()},
    }  # fmt: skip
    write_result("wikitext", payload, device, claims=claims, output=arguments.output)
    whole = not arguments.tokens and not arguments.overrides
    if whole and arguments.minutes >= LEADERBOARD_MINUTES:
        where = environment(device)
        add_rows(
            {
                "date": where["date"],
                "model": line["model"],
                "parameters": line["parameters"],
                "data": "WikiText-2 validation, words",
                "hardware": hardware_name(device, arguments.threads),
                "minutes": line["seconds"] / 60,
                "static": line["static ppl"],
                "online": line["online ppl"],
                "commit": where["commit"][:12] + ("+" if where["uncommitted_changes"] else ""),
                "command": where["command"],
            }
            for line in rows
        )


def valid_setting(reports: dict[str, OnlineReport]) -> dict[str, int]:
    """Context and stride of the evaluation."""
    static = reports["SplatLM"].static
    return {"context": static.context, "stride": static.stride}


if __name__ == "__main__":
    main()
