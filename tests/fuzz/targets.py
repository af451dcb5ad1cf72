"""What is fuzzed: the loaders of every file of a run, each with a valid file to start from.

A target makes the n-th mutated file from a seed, loads it, and looks at what came back.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from checkpoint_targets import Manifest, TrainerState, Weights
from composition_targets import Composition
from mutations import dumps, mutate_bytes, mutate_json, mutate_json_text
from numpy.random import Generator
from splat_targets import Splats
from target import SilentDamage, Target

from ebm_wgpu.config import Config
from ebm_wgpu.diagnosis.diagnose import diagnose
from ebm_wgpu.errors import EbmError
from ebm_wgpu.files import json_digest
from ebm_wgpu.text.tokenizer_base import state_fingerprint
from ebm_wgpu.text.tokenizers import load_tokenizer, make_tokenizer
from ebm_wgpu.training.run_folder import RunFolder

TEXT = "the cat sat on the mat, and the dog sat on the cat: a café for 12 cats.\n" * 4


class Tokenizer(Target):
    """tokenizer.json of each kind, with and without a new fingerprint."""

    name, share = "tokenizer.json", 0.1
    kinds = (("bpe", 280), ("char", None), ("word", None), ("gpt2", None))

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.path = folder / "tokenizer.json"
        self.valid = []
        for kind, size in self.kinds:
            make_tokenizer(kind, TEXT, size).save(self.path)
            self.valid.append((self.path.read_bytes(), self.load()))
        self.expected: Any = None

    def write(self, rng: Generator) -> None:
        # Building GPT-2's vocabulary takes a hundred times longer than that of the others.
        number = 3 if rng.random() < 0.002 else int(rng.integers(3))
        valid, self.expected = self.valid[number]
        self.signed = bool(rng.random() < 0.6)
        if not self.signed:
            self.path.write_bytes(mutate_json_text(valid, rng))
            return
        document = mutate_json(json.loads(valid), rng)
        if isinstance(document, dict):
            document["fingerprint"] = state_fingerprint(
                document.get("name", ""), document.get("state", {})
            )
        self.path.write_bytes(dumps(document))

    def load(self) -> Any:
        tokenizer = load_tokenizer(self.path)
        ids = tokenizer.encode(TEXT)
        tokenizer.decode(ids)
        tokenizer.decode(list(range(tokenizer.vocab_size))[-300:])
        assert 0 <= tokenizer.start_id < tokenizer.vocab_size
        assert ids.size == 0 or 0 <= ids.min() <= ids.max() < tokenizer.vocab_size
        return tokenizer.fingerprint, ids.tobytes()


class ConfigFile(Target):
    """config.json."""

    name, share = "config.json", 0.1

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.run = RunFolder(folder)
        self.valid = Config().to_json().encode()

    def write(self, rng: Generator) -> None:
        self.signed = True
        (self.folder / "config.json").write_bytes(mutate_json_text(self.valid, rng))

    def load(self) -> Any:
        return self.run.read_config().validate().to_json()


class Metrics(Target):
    """metrics.jsonl, by way of a diagnosis, which looks at all of it."""

    name, share = "metrics.jsonl", 0.1

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.run = RunFolder(folder)
        self.run.create()
        self.run.write_config(Config())
        levels: Any = [{"kappa": 1.0, "loss": 0.5, "floor": 0.1, "explained": 0.55}]
        valid: dict[str, Any] = {
            "nll_per_token": 4.0,
            "token_perplexity": 50.0,
            "word_perplexity": 90.0,
        }
        valid |= {"bits_per_byte": 1.0, "score_matching": levels}
        self.lines = [
            {
                "step": step, "loss": 5.0 - step / 100, "token": 4.0, "energy": -step / 10,
                "grad_norm": 1.0, "lr": 0.1, "gate": 0.2, "balance": 1.0, "elapsed": step / 2,
                "splats": {"count": 40, "active": 30, "coverage": 0.9, "effective": 9.0,
                           "at_kappa_max": 0.0, "at_kappa_min": 0.0, "kappa_max": 9.0},
                "tokens_per_second": 100.0, "disk": {"free": 9, "checkpoint": 1},
                **({"valid": valid, "unigram_nll": 5.0} if step % 4 == 0 else {}),
                **({"alerts": ["energy-rising"]} if step == 9 else {}),
                **({"rollback": {"figure": "loss", "at": 7, "to": 4, "rate_scale": 0.5}}
                   if step == 11 else {}),
            }
            for step in range(24)
        ]  # fmt: skip

    def write(self, rng: Generator) -> None:
        self.signed = True
        lines = [dumps(line) for line in self.lines]
        if rng.random() < 0.8:
            for _ in range(int(rng.integers(1, 4))):
                at = int(rng.integers(len(lines)))
                lines[at] = dumps(mutate_json(self.lines[at], rng))
        content = b"\n".join(lines) + b"\n"
        if rng.random() < 0.3:
            content = mutate_json_text(lines[0], rng) + b"\n" + content
        if rng.random() < 0.3:
            content = mutate_bytes(content, rng)
        self.run.metrics_path.write_bytes(content)

    def load(self) -> Any:
        return json.dumps(diagnose(self.folder).summary(), allow_nan=False)


class Pointer(Target):
    """checkpoints/last.json and best.json."""

    name, share = "last.json", 0.05

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.run = RunFolder(folder)
        self.run.create()
        self.valid = (b'{"step": 12}\n', dumps({"step": 12, "sha256": json_digest({"step": 12})}))

    def write(self, rng: Generator) -> None:
        self.signed = True
        content = mutate_json_text(self.valid[rng.integers(2)], rng)
        (self.run.checkpoints / "last.json").write_bytes(content)

    def load(self) -> Any:
        step = self.run.pointer("last")
        assert step is None or (type(step) is int and step >= 0)
        return step


TARGETS: tuple[type[Target], ...] = (
    Splats, Weights, TrainerState, Manifest, Tokenizer, ConfigFile, Metrics, Pointer, Composition,
)  # fmt: skip


def check(target: Target) -> str:
    """Load what the target has written; "valid", or the class of the error that refused it.

    Raises:
        SilentDamage: see there.
        Exception: whatever else the loader lets out, which is a defect.
    """
    try:
        result = target.load()
    except EbmError as error:
        message = str(error)
        if not message.strip() or "\n" in message or type(error) is EbmError:
            raise AssertionError(
                f"not a one-line error of a class of its own: {message!r}"
            ) from error
        return type(error).__name__
    if not target.signed and result != target.expected:
        raise SilentDamage(f"read as {str(result)[:200]}, was {str(target.expected)[:200]}")
    return "valid"
