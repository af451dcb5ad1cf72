"""Everything a run can be told: sections, JSON, and `section.name=value` overrides."""

from __future__ import annotations

import dataclasses
import difflib
import fnmatch
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from ebm_wgpu.errors import ConfigError
from ebm_wgpu.files import parse_json
from ebm_wgpu.models.energy_transformer_config import EnergyTransformerConfig
from ebm_wgpu.models.memory_config import MOST_REMEMBERED, MemoryConfig
from ebm_wgpu.models.nano_ebm_config import NanoEBMConfig
from ebm_wgpu.models.registry import family_disagreements, idle_options, learns_splats
from ebm_wgpu.models.transformer_config import TransformerConfig
from ebm_wgpu.options import Option, option, options_of
from ebm_wgpu.training.curriculum_config import CurriculumConfig, curriculum_disagreements

Latent = Literal["mean", "exact", "langevin"]


@dataclass(frozen=True)
class DataConfig:
    """What text to learn from, and how it is cut."""

    dataset: str = option(
        "wikitext-2", "wikitext-2, wikitext-103, shakespeare, or the path of a text file or folder"
    )
    data_dir: str | None = option(
        None, "local folder to read the data set from instead of the embedded copy or the hub"
    )
    valid_path: str | None = option(
        None, "text file to validate on; without it, the last 5% of the lines of a text file"
    )
    tokenizer: Literal["bpe", "gpt2", "char", "word"] = option(
        "bpe", "byte-level BPE trained on the corpus, GPT-2's, characters, or words"
    )
    vocab_size: int | None = option(
        16384,
        "most token ids of bpe and word (none: every word); char and gpt2 have their own",
        ge=3,
    )
    tokenizer_path: str | None = option(
        None, "tokenizer.json to use instead, as `ebm tokenizer train` or a run wrote it"
    )
    block_size: int = option(256, "tokens predicted in a training window", ge=1)
    window_stride: int | None = option(
        None, "tokens from a training window to the next (none: block_size, no overlap)", ge=1
    )
    documents: Literal["across", "within", "packed"] = option(
        "across",
        "windows run across document ends, stay within one document, or also pack short documents",
    )
    heldout_tokens: int = option(
        0,
        "tokens at the end of the training text that are kept from training, to fit memories on; "
        "at most a quarter of it",
        ge=0,
    )
    eval_context: int = option(512, "tokens of input in an evaluation window", ge=1)
    eval_stride: int = option(256, "tokens from an evaluation window to the next", ge=1)


@dataclass(frozen=True)
class ModelConfig:
    """The family of the model, and the shape of a splat model and where its splats start."""

    family: Literal["splat", "transformer", "nano", "ebt"] = option(
        "splat",
        "kind of model: splats, a causal transformer (section transformer), NanoEBM over one "
        "(transformer and nano), or an energy-based transformer (ebt)",
    )
    dim: int = option(256, "dimension d of the space whose unit sphere S^(d-1) holds meaning", ge=8)
    n_splats: int = option(16384, "number of splats", ge=1)
    kappa_init: float = option(5.0, "first concentration per degree of freedom", ge=1, le=50)
    kappa_min: float = option(1.0, "least concentration per degree of freedom", ge=1, le=50)
    kappa_max: float = option(50.0, "greatest concentration per degree of freedom", ge=1, le=50)
    context: Literal["hierarchical", "transformer"] = option(
        "hierarchical",
        "context encoder: recent mean, exponential mean and attention, mixed; or a transformer "
        "(section transformer), whose states are the splats (section memory)",
    )
    context_mixing: Literal["learned", "fixed"] = option(
        "learned", "weights of the three context parts: learned, or fixed at .5, .3, .2"
    )
    recent_window: int = option(12, "tokens in the recent mean", ge=1)
    decay_window: int = option(64, "tokens in the exponential mean", ge=1)
    attention_window: int = option(512, "tokens attended to", ge=1)
    n_experts: int = option(4, "experts of the decoder", ge=1)
    n_active: int = option(2, "experts that decode a token", ge=1)
    expert_hidden: int = option(1024, "hidden units of an expert", ge=1)
    dropout: float = option(
        0.0,
        "share dropped in training of the token directions that a context is made of, and of what "
        "the decoder reads",
        ge=0,
        lt=1,
    )
    splat_init: Literal["spectral", "uniform", "embedding"] = option(
        "spectral",
        "first splat directions: PPMI and SVD of the corpus, uniform, or a pretrained embedding",
    )
    embedding_path: str | None = option(
        None, "for splat_init=embedding: transformers folder or hub name, or word vectors as text"
    )
    context_scale_init: float = option(16.0, "first length of the context term h", gt=0)


@dataclass(frozen=True)
class EnergyConfig:
    """E(x | c) = E_splats - h.x + lambda_geom E_geom + lambda_comp E_comp - lambda_entropy H[q].

    The lambda_* switch terms into the energy of latents, where score matching teaches them.
    Langevin latents feel those of one latent alone, coverage and composition: spread and entropy
    are of a batch, in which a position of a text would learn of those that come after it. The
    *_loss shape splats and contexts: they weigh the same terms, as losses of the mean latents that
    training makes, and leave the energy as it is.
    """

    form: Literal["normalized", "published"] = option(
        "normalized", "vMF mixture, or the literal alpha (x.mu - 1)/tau over the nearest splats"
    )
    temperature: float = option(
        1.0, "temperature: divides concentrations and h inside the logarithm", gt=0
    )
    tau: float = option(0.1, "tau of the published form", gt=0)
    n_neighbours: int = option(64, "nearest splats K of the published form", ge=1)
    lambda_geom: float = option(0.0, "weight of the geometric term", ge=0)
    lambda_comp: float = option(0.0, "weight of the compositional term", ge=0)
    lambda_spread: float = option(1.0, "weight of spreading inside the geometric term", ge=0)
    lambda_cover: float = option(1.0, "weight of coverage inside the geometric term", ge=0)
    rho_min: float = option(0.1, "density below which coverage costs energy", ge=0)
    sharpness: float = option(10.0, "sharpness of the density that coverage looks at", ge=0)
    lambda_entropy: float = option(
        0.0, "weight of minus the entropy of the splats a batch makes use of", ge=0
    )
    pair_coefficients: tuple[float, float, float] = option(
        (0.0, 0.0, -4.0), "W of u, v and u v in the compositional term's sigmoid"
    )
    pair_bias: float = option(0.0, "b in the compositional term's sigmoid")
    term_neighbours: int = option(8, "nearest splats of the further terms", ge=2, le=128)
    spread_loss: float = option(
        0.0, "weight in training of keeping the latents of a batch apart, such as .01", ge=0
    )
    coverage_loss: float = option(
        0.0, "weight in training of latents where rho is below rho_min, such as .1", ge=0
    )
    pair_loss: float = option(
        0.0, "weight in training of E_comp of the latents of a batch, such as .1", ge=0
    )
    entropy_loss: float = option(
        0.0,
        "weight in training of minus the entropy of the splats that the latents of a batch make "
        "use of, such as .01",
        ge=0,
    )


@dataclass(frozen=True)
class SamplerConfig:
    """How a latent x is found for a context."""

    latent: Latent = option(  # noqa: RUF009
        "mean", "latent to decode: closed-form mean, exact draw, or Langevin from an exact draw"
    )
    integrator: Literal["baoab", "published"] = option(
        "baoab", "geodesic BAOAB, or the published Stormer-Verlet scheme"
    )
    n_steps: int = option(50, "BAOAB steps", ge=1)
    dt_omega: float | None = option(
        None, "BAOAB step times omega (none: .25 for kappa <= 2, .5 for >= 5)", gt=0, lt=2
    )
    gamma_omega: float = option(1.0, "BAOAB friction over omega", gt=0)
    list_size: int = option(128, "splats in a certified neighbour list", ge=1)
    list_eps: float = option(1e-6, "fraction of the mass a list may lose", gt=0, lt=1)
    published_steps: int = option(200, "steps of the published integrator", ge=1)
    published_dt: float = option(0.001, "step size of the published integrator", gt=0)
    published_gamma: float = option(0.1, "friction of the published integrator", ge=0)
    published_temperature: float = option(1.0, "temperature of the published integrator", ge=0)


@dataclass(frozen=True)
class TrainConfig:
    """How the model learns, and when it reports, scores and saves."""

    seed: int = option(0, "seed of everything random", ge=0, lt=2**63)
    device: Literal["auto", "wgpu", "vulkan", "numba", "cpu"] = option(
        "auto",
        "where a model computes: auto takes a hardware adapter if there is one, where all of a "
        "family's tensors live, and the processor (numba, cpu) otherwise",
    )
    steps: int = option(20000, "optimiser steps", ge=1)
    max_minutes: float | None = option(None, "stop after so many minutes (none: never)", gt=0)
    batch_size: int = option(16, "windows in a batch", ge=1)
    accumulation: int = option(1, "batches whose gradients make one step", ge=1)
    lr: float = option(1e-3, "learning rate of encoder and decoder", gt=0)
    lr_splats: float = option(0.02, "learning rate of the splats", ge=0)
    weight_decay: float = option(0.1, "weight decay of matrices", ge=0)
    splat_decay: float = option(
        0.0, "rate a step at which weights of splats decay that are 100 steps old and unused", ge=0
    )
    betas: tuple[float, float] = option((0.9, 0.95), "AdamW moment decays", ge=0, lt=1)
    warmup_steps: int = option(200, "steps of linear warm-up", ge=0)
    min_lr_ratio: float = option(0.1, "last learning rate over the highest", ge=0, le=1)
    grad_clip: float = option(1.0, "greatest norm of the gradient", gt=0)
    precision: Literal["float32", "bfloat16", "float16"] = option(
        "float32",
        "arithmetic of the forward pass: float32, or where it is safe float16 (on a GPU) or "
        "bfloat16 (on the processor, families without splats); weights stay in float32",
    )
    ema_decay: float | None = option(
        None,
        "decay of a moving average of the weights, such as 0.999, which is then what is scored "
        "and saved for use (none: the weights themselves)",
        gt=0,
        lt=1,
    )
    token_latent: Latent = option("mean", "latent the token loss decodes")  # noqa: RUF009
    latent_weight: float = option(1.0, "weight of the exact latent likelihood", ge=0)
    dsm_weight: float = option(0.0, "weight of score matching (reported at any weight)", ge=0)
    dsm_levels: tuple[float, ...] = option(
        (1.0, 5.0, 20.0), "noise concentrations of score matching per degree of freedom", gt=0
    )
    terms_weight: float = option(
        0.1,
        "weight of the score matching that teaches lambda_geom, lambda_comp and lambda_entropy, "
        "those that are not 0, over splats that it leaves as they are",
        ge=0,
    )
    label_smoothing: float = option(
        0.0,
        "share of a target that the cross-entropies of training spread over all tokens, such as .1",
        ge=0,
        lt=1,
    )
    balance_weight: float = option(0.01, "weight of the expert load-balancing loss", ge=0)
    eval_every: int = option(500, "steps between evaluations", ge=1)
    eval_tokens: int | None = option(
        32768, "validation tokens an evaluation during training scores (none: all)", ge=1
    )
    patience: int | None = option(
        None, "stop after so many evaluations in a row without a better one (none: never)", ge=1
    )
    checkpoint_every: int = option(500, "steps between checkpoints", ge=1)
    keep_last: int = option(2, "newest checkpoints kept besides the best", ge=1)
    keep_best: int = option(1, "checkpoints kept for their validation loss", ge=1)
    log_every: int = option(10, "steps between lines of the log", ge=1)
    report: Literal["none", "tensorboard", "wandb"] = option(
        "none", "where metrics go besides metrics.jsonl: nowhere, TensorBoard or Weights & Biases"
    )


@dataclass(frozen=True)
class Config:
    """A whole run: `presets.load_config` makes one from a preset or file and overrides.

    A run uses the sections that its family needs; the others keep their defaults.
    """

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    energy: EnergyConfig = field(default_factory=EnergyConfig)
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    curriculum: CurriculumConfig = field(default_factory=CurriculumConfig)
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    transformer: TransformerConfig = field(default_factory=TransformerConfig)
    nano: NanoEBMConfig = field(default_factory=NanoEBMConfig)
    ebt: EnergyTransformerConfig = field(default_factory=EnergyTransformerConfig)

    def validate(self) -> Config:
        """Itself, if every value is in range and they agree with each other.

        Raises:
            ConfigError: the first value that is not, with its key, value and bound.
        """
        for known in OPTIONS.values():
            known.check(getattr(getattr(self, known.section), known.name))
        for wrong, message in self._disagreements():
            if wrong:
                raise ConfigError(message)
        return self

    def _disagreements(self) -> Iterator[tuple[bool, str]]:
        data, model = self.data, self.model
        yield (
            data.eval_stride > data.eval_context,
            f"data.eval_stride={data.eval_stride} must be <= data.eval_context={data.eval_context}",
        )
        yield (
            data.window_stride is not None and data.window_stride > data.block_size,
            f"data.window_stride={data.window_stride} must be <= data.block_size={data.block_size}",
        )
        yield (
            data.tokenizer == "bpe" and (data.vocab_size is None or data.vocab_size < 257),
            f"data.vocab_size={data.vocab_size} must be >= 257 for data.tokenizer=bpe: the 256 "
            "bytes and the end of text",
        )
        yield (
            not model.kappa_min <= model.kappa_init <= model.kappa_max,
            f"model.kappa_init={model.kappa_init} must be from model.kappa_min={model.kappa_min} "
            f"to model.kappa_max={model.kappa_max}",
        )
        yield (
            model.n_active > model.n_experts,
            f"model.n_active={model.n_active} must be <= model.n_experts={model.n_experts}",
        )
        yield (
            model.splat_init == "embedding" and model.embedding_path is None,
            "model.splat_init=embedding needs model.embedding_path=FOLDER_OR_FILE",
        )
        yield (
            self.train.precision == "bfloat16" and learns_splats(self),
            "train.precision=bfloat16 is for families that torch computes and model.family="
            f"{model.family} runs kernels of its own: use train.precision=float32",
        )
        memory = self.memory
        yield (
            memory.capacity > memory.compared and memory.n_neighbours > MOST_REMEMBERED,
            f"memory.n_neighbours={memory.n_neighbours} must be <= {MOST_REMEMBERED} for an online "
            f"memory that searches, memory.capacity={memory.capacity} above "
            f"memory.compared={memory.compared}: lower one of them, or raise memory.compared",
        )
        yield from family_disagreements(self)
        yield from curriculum_disagreements(self)

    def to_json(self) -> str:
        """The configuration as JSON text, two levels of objects, ending in a newline."""
        return json.dumps(dataclasses.asdict(self), indent=2, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Config:
        """The configuration that `to_json` wrote; options that the text lacks have their defaults.

        So runs of earlier versions stay readable: an option's default is what was there before it.

        Raises:
            ConfigError: no JSON object, unknown keys, wrong types, values out of range.
        """
        try:
            document = parse_json(text)
        except ValueError as error:
            raise ConfigError(f"the configuration is not JSON: {error}") from error
        if not isinstance(document, dict):
            raise ConfigError("the configuration is not a JSON object: give sections of options")
        given: dict[str, Any] = {}
        for section, entries in document.items():
            if isinstance(entries, dict):
                given |= {f"{section}.{name}": value for name, value in entries.items()}
            else:
                given[section] = entries
        for key in given:
            if key not in OPTIONS:
                raise _unknown_key(key)
        values = {key: OPTIONS[key].from_json(value) for key, value in given.items()}
        return _replace(cls(), values).validate()


OPTIONS: Mapping[str, Option] = MappingProxyType(options_of(Config))
"""Every option by its key, `section.name`."""


def apply_overrides(config: Config, overrides: Iterable[str]) -> Config:
    """`config` with values replaced, validated.

    Args:
        config: what to start from; it stays as it is.
        overrides: texts `section.name=value`, such as "train.lr=0.01"; an option's type says how
            its value reads: `true`, `none`, or `1,2` for a tuple. Later ones win.

    Raises:
        ConfigError: no "=", an unknown key (with near matches), a value of the wrong type or out
            of range, or one other than the default that would change nothing.
    """
    values: dict[str, Any] = {}
    for override in overrides:
        key, equals, text = override.partition("=")
        key = key.strip()
        if not equals:
            raise ConfigError(f"override {override!r} has no '=': give section.name=value")
        if key not in OPTIONS:
            raise _unknown_key(key)
        values[key] = OPTIONS[key].parse(text)
    changed = _replace(config, values).validate()
    _refuse_idle(changed, values)
    return changed


def _refuse_idle(config: Config, values: Mapping[str, Any]) -> None:
    """Raise `ConfigError` for the first of the values asked for that has no effect."""
    defaults = Config()
    for patterns, why in idle_options(config):
        for key, value in values.items():
            option = OPTIONS[key]
            default = getattr(getattr(defaults, option.section), option.name)
            if value != default and any(fnmatch.fnmatchcase(key, each) for each in patterns):
                raise ConfigError(f"{key}={value} has no effect {why}: leave it out")


def _replace(config: Config, values: Mapping[str, Any]) -> Config:
    sections: dict[str, dict[str, Any]] = {}
    for key, value in values.items():
        sections.setdefault(OPTIONS[key].section, {})[OPTIONS[key].name] = value
    return dataclasses.replace(
        config,
        **{
            section: dataclasses.replace(getattr(config, section), **names)
            for section, names in sections.items()
        },
    )


def _unknown_key(key: str) -> ConfigError:
    section, _, name = key.rpartition(".")
    same_name = [known for known in OPTIONS if OPTIONS[known].name == name]
    similar = difflib.get_close_matches(key, OPTIONS, n=3, cutoff=0.75)
    near = list(dict.fromkeys(same_name + similar))
    if near:
        return ConfigError(f"unknown option {key!r}: did you mean {' or '.join(near)}?")
    in_section = [known for known in OPTIONS if OPTIONS[known].section == section]
    known = in_section or [f"{part.name}.*" for part in dataclasses.fields(Config)]
    return ConfigError(f"unknown option {key!r}: there are {', '.join(known)}")
