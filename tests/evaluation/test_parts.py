"""The parts of an evaluation on a run whose every probability can be enumerated."""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from ebm_wgpu.config import Config, apply_overrides
from ebm_wgpu.errors import ConfigError
from ebm_wgpu.evaluation.energy_contrast import EnergySpread
from ebm_wgpu.evaluation.online import evaluate_online
from ebm_wgpu.evaluation.parts import (
    LATENT_DRAWS,
    PARTS,
    QUICK_PARTS,
    EvaluationSettings,
    check_parts,
    evaluate_parts,
)
from ebm_wgpu.evaluation.perplexity import evaluate_perplexity
from ebm_wgpu.generation.sampling import SamplingSettings
from ebm_wgpu.models.registry import build_model
from ebm_wgpu.online_memory import fit_online
from ebm_wgpu.readers import reader_of
from ebm_wgpu.text.datasets import TokenStream
from ebm_wgpu.text.tokenizers import make_tokenizer
from ebm_wgpu.training.loading import LoadedRun
from ebm_wgpu.training.run_folder import RunFolder

TEXT = "abc abd acd\n" * 60
OVERRIDES = (
    "data.tokenizer=char", "data.block_size=8", "data.eval_context=16", "data.eval_stride=8",
    "model.dim=16", "model.n_splats=30", "model.n_experts=2", "model.n_active=1",
    "model.expert_hidden=8", "model.recent_window=3", "model.decay_window=4",
    "model.attention_window=8", "energy.n_neighbours=8", "sampler.list_size=16",
    "sampler.n_steps=10", "train.batch_size=8",
)  # fmt: skip
SETTINGS = EvaluationSettings(
    n_windows=8, n_latents=40, n_texts=2, prompt_tokens=4, sampling=SamplingSettings(max_tokens=6)
)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def loaded(device, *overrides: str) -> LoadedRun:
    """A model as it stands before training, its parameters stirred so that nothing is even."""
    tokenizer = make_tokenizer("char", TEXT)
    config = apply_overrides(apply_overrides(Config(), OVERRIDES), overrides)
    torch.manual_seed(0)
    model = build_model(config, tokenizer.vocab_size, device)
    ids = tokenizer.encode(TEXT)
    model.initialize(ids, np.bincount(ids, minlength=tokenizer.vocab_size), seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name != "mu":
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    model.eval()
    return LoadedRun(RunFolder(Path("run")), config, tokenizer, model, 3)


def stream(run: LoadedRun, text: str = TEXT) -> TokenStream:
    return TokenStream.from_text(text, run.tokenizer, "a text")


def evaluated(run, *parts, settings=SETTINGS):
    return evaluate_parts(run, stream(run), len(TEXT.encode()), parts, settings)


@pytest.fixture(scope="module")
def run(numba_device) -> LoadedRun:
    return loaded(numba_device)


def test_every_part_is_measured_and_is_json(run):
    seen = []
    report = evaluate_parts(
        run, stream(run), len(TEXT), PARTS, dataclasses.replace(SETTINGS, n_tokens=64),
        lambda part, done, total: seen.append(part.partition(",")[0]),
    )  # fmt: skip
    record = json.loads(json.dumps(report.summary(), allow_nan=False))
    assert record["n_tokens"] == 64
    assert record["memory"] == "static"
    assert [level["kappa"] for level in record["score_matching"]] == [1, 5, 20]
    assert record["coverage"]["n_positions"] == 40
    assert [latent["latent"] for latent in record["latents"]] == ["mean", "exact", "langevin"]
    assert [latent["draws"] for latent in record["latents"]] == [1, LATENT_DRAWS, LATENT_DRAWS]
    assert [contrast["measure"] for contrast in record["energy"]] == ["text", "latent", "energy"]
    assert record["text"]["new_tokens"] == 6
    assert set(seen) == set(PARTS) - {"latents", "online"}
    assert "data.heldout_tokens" in record["unavailable"]["online"]
    assert "does not know 'and' and 'not'" in record["unavailable"]["composition"]


def test_only_what_was_asked_for_is_measured(run):
    report = evaluated(run, "coverage")
    assert report.perplexity is None
    assert report.coverage is not None
    assert set(report.summary()) == {"score_matching", "coverage"}
    assert evaluated(run).summary() == {"score_matching": []}


def test_a_family_without_splats_has_the_parts_it_has(numba_device):
    run = loaded(
        numba_device, "model.family=transformer", "transformer.dim=16", "transformer.n_layers=1",
        "transformer.n_heads=2", "transformer.max_length=16", "train.dsm_weight=0",
    )  # fmt: skip
    report = evaluated(run, *PARTS)
    assert report.coverage is None
    assert report.score_matching == ()
    assert [latent.latent for latent in report.latents] == ["mean"]
    assert [contrast.measure for contrast in report.energy] == ["text"]
    assert report.text is not None
    assert set(report.unavailable) == {"score-matching", "coverage", "online", "composition"}
    assert "model.context=hierarchical" in report.unavailable["coverage"]


def test_static_and_online_stand_side_by_side(run):
    """A text that repeats one line: what was read of it helps, and by how much is computed anew."""
    fit_on = dataclasses.replace(stream(run, TEXT[:400]), name="a held-out text")
    settings = dataclasses.replace(SETTINGS, n_tokens=200, capacity=50)
    report = evaluate_parts(
        run, stream(run), len(TEXT), ["perplexity", "online"], settings, fit_on=fit_on
    )
    online = report.online
    assert report.unavailable == {}
    assert online.static.nll_sum == pytest.approx(report.perplexity.nll_sum, rel=1e-6)
    assert online.online.nll_sum < 0.8 * online.static.nll_sum
    assert (online.static.n_tokens, online.online.n_bytes) == (200, 200)
    assert online.settings["capacity"] == 50
    assert online.settings["fitted_on"] == "a held-out text"
    reader = reader_of(run.model)
    start_id = run.tokenizer.start_id
    fitted = fit_online(reader, fit_on, run.config, start_id=start_id, capacity=50)
    text = TokenStream.from_text(TEXT[:200], run.tokenizer)
    again = evaluate_online(reader, text, run.config, fitted, start_id=start_id)
    assert again.online.nll_sum == pytest.approx(online.online.nll_sum, rel=1e-6)
    record = json.loads(json.dumps(report.summary(), allow_nan=False))
    assert record["online"]["online"]["memory"] == "online"
    assert record["memory"] == record["online"]["static"]["memory"] == "static"


def test_a_family_that_keeps_no_states_remembers_nothing(numba_device):
    run = loaded(
        numba_device, "model.family=ebt", "ebt.dim=16", "ebt.n_layers=1", "ebt.n_heads=2",
        "ebt.max_length=16",
    )  # fmt: skip
    report = evaluate_parts(
        run, stream(run), len(TEXT), ["online", "composition"], SETTINGS, fit_on=stream(run)
    )
    assert "model.family=ebt keeps no state" in report.unavailable["online"]
    assert set(report.summary()["unavailable"]) == {"online", "composition"}


def test_too_little_text_for_a_part_is_said(run):
    report = evaluate_parts(run, stream(run, "a"), 1, ["score-matching", "coverage"], SETTINGS)
    assert "has 1 tokens, too few for a window" in report.unavailable["score-matching"]
    assert "has only 1 tokens" in report.unavailable["coverage"]


def test_latents_that_the_configuration_excludes_are_named(numba_device):
    run = loaded(numba_device, "energy.form=published")
    settings = dataclasses.replace(SETTINGS, n_tokens=32, draws=2)
    report = evaluated(run, "latents", settings=settings)
    assert [latent.latent for latent in report.latents] == ["mean", "langevin"]
    assert "energy.form=normalized" in report.refused["exact"]
    assert report.latents[1].draws == 2


def test_a_memory_that_could_not_search_is_refused_before_anything_is_measured(numba_device):
    run = loaded(numba_device, "memory.n_neighbours=65")
    seen = []
    with pytest.raises(ConfigError, match=r"n_neighbours=65 must be <= 64 .*capacity=20000"):
        evaluate_parts(
            run, stream(run), len(TEXT), ["perplexity", "online"],
            dataclasses.replace(SETTINGS, capacity=20000), lambda *told: seen.append(told),
            fit_on=stream(run),
        )  # fmt: skip
    assert not seen


def test_figures_too_large_for_a_number_are_null(run):
    report = evaluated(run, "energy", "text")
    hopeless = dataclasses.replace(report.text.written, perplexity=math.inf)
    report = dataclasses.replace(
        report,
        text=dataclasses.replace(report.text, written=hopeless),
        energy=(
            dataclasses.replace(report.energy[0], noise=EnergySpread(math.inf, math.nan, 1.0)),
        ),
    )
    record = json.loads(json.dumps(report.summary(), allow_nan=False))
    assert record["text"]["written"]["perplexity"] is None
    assert record["energy"][0]["noise"] == {"mean": None, "deviation": None, "auroc": 1.0}
    assert record["text"]["written"]["distinct"] == list(hopeless.distinct)


def test_unknown_parts_and_impossible_latents_are_errors(run):
    with pytest.raises(ConfigError, match="no part 'speed'"):
        check_parts(["perplexity", "speed"])
    check_parts(QUICK_PARTS)
    with pytest.raises(ConfigError, match="draws=3 with latent=mean"):
        evaluated(run, "perplexity", settings=dataclasses.replace(SETTINGS, draws=3))


@pytest.mark.parametrize("context", [16, 2])
def test_scores_are_those_of_all_texts_enumerated(run, context):
    """Every text of three characters, whole or in windows of two: by the chain rule, and summed."""
    vocab, start = run.tokenizer.vocab_size, run.tokenizer.start_id
    texts = torch.cartesian_prod(*[torch.arange(vocab)] * 3)
    read = torch.cat([torch.full((len(texts), 1), start), texts], 1)
    log_p = torch.zeros(len(texts), dtype=torch.float64)
    with torch.no_grad():
        for at in range(3):
            first = max(0, at + 1 - context)
            log_next = run.model.next_token_log_probs(read[:, first : at + 1]).double()
            log_p += log_next.gather(1, texts[:, at : at + 1])[:, 0]
    assert float(log_p.exp().sum()) == pytest.approx(1, abs=1e-5)
    config = apply_overrides(run.config, [f"data.eval_context={context}", "data.eval_stride=1"])
    for row in (0, 5, 77, 111, len(texts) - 1):
        text = TokenStream(texts[row].numpy().astype(np.int32), vocab, 1)
        report = evaluate_perplexity(run.model, text, config, start_id=start)
        assert -report.nll_sum == pytest.approx(float(log_p[row]), abs=1e-4)


def perplexities(run, draws: int, n_tokens: int = 64):
    settings = dataclasses.replace(SETTINGS, n_tokens=n_tokens, draws=draws, seed=4)
    return {r.latent: r for r in evaluated(run, "latents", settings=settings).latents}


def test_exact_draws_and_langevin_states_agree_within_their_error(run):
    found = perplexities(run, draws=24)
    exact, langevin = found["exact"], found["langevin"]
    error = math.hypot(exact.standard_error, langevin.standard_error)
    assert 0 < error < 0.02 * exact.token_perplexity
    assert abs(exact.token_perplexity - langevin.token_perplexity) < 3 * error
    fewer = perplexities(run, draws=6)["exact"]
    assert fewer.standard_error == pytest.approx(2 * exact.standard_error, rel=0.25)


def test_all_latents_agree_exactly_where_the_decoder_does_not_read_them(numba_device):
    """The mean differs from draws only by how the decoder bends: with a blind one by nothing."""
    run = loaded(numba_device)
    with torch.no_grad():
        for parameter in run.model.decoder.parameters():
            parameter.zero_()
    found = perplexities(run, draws=3)
    for latent in ("exact", "langevin"):
        assert found[latent].nll_sum == pytest.approx(found["mean"].nll_sum, rel=1e-6)
        assert found[latent].standard_error == pytest.approx(0, abs=1e-6)


def test_the_mean_agrees_with_draws_as_splats_grow_sharp(numba_device):
    """A latent that hardly varies is its mean: one splat a token, sharp, chosen by the context."""
    gaps = []
    for kappa, scale in ((2, 1.0), (50, 3000.0)):
        run = loaded(numba_device, f"model.kappa_init={kappa}", f"model.context_scale_init={scale}")
        found = perplexities(run, draws=8)
        gaps.append(abs(math.log(found["exact"].token_perplexity / found["mean"].token_perplexity)))
    assert gaps[1] < 2e-3
    assert gaps[1] < gaps[0]
