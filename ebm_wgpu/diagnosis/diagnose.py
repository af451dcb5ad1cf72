"""Diagnosis of a run: evidence, verdict and findings together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ebm_wgpu.diagnosis.evidence import Evidence, gather
from ebm_wgpu.diagnosis.findings import Finding, find
from ebm_wgpu.errors import CheckpointError, EbmError
from ebm_wgpu.training.run_folder import CONFIG_FILE, RunFolder
from ebm_wgpu.training.verdicts import Verdict, judge


@dataclass(frozen=True)
class Diagnosis:
    """What is to be said of a run.

    Attributes:
        evidence: what it rests on.
        verdict: quality and trend.
        findings: what is wrong, the serious ones first.
        alerts_raised: how often training raised each alert.
    """

    evidence: Evidence
    verdict: Verdict
    findings: tuple[Finding, ...]
    alerts_raised: Mapping[str, int]

    def summary(self) -> dict[str, Any]:
        """All of it but the metrics, as types JSON holds."""
        evidence, train = self.evidence, self.evidence.config.train
        valid = [record["valid"] for record in evidence.records if "valid" in record]
        return {
            "run": str(evidence.path),
            "family": evidence.config.model.family,
            "step": evidence.step,
            "steps_planned": train.steps,
            "elapsed": evidence.elapsed,
            "quality": self.verdict.quality,
            "trend": self.verdict.trend,
            "reasons": list(self.verdict.reasons),
            "ratings": [asdict(rating) for rating in self.verdict.ratings],
            "findings": [asdict(finding) for finding in self.findings],
            "alerts_raised": dict(self.alerts_raised),
            "first_valid": valid[0] if valid else None,
            "last_valid": valid[-1] if valid else None,
            "checkpoints": [
                {name: value for name, value in asdict(state).items() if name != "spreads"}
                for state in evidence.checkpoints
            ],
        }


@dataclass(frozen=True)
class Unreadable:
    """A run that cannot be diagnosed, and why."""

    path: Path
    reason: str

    def summary(self) -> dict[str, Any]:
        """As types JSON holds."""
        return {"run": str(self.path), "unreadable": self.reason}


def diagnose(path: str | Path) -> Diagnosis:
    """The diagnosis of a run folder, or of the run up to one of its checkpoints.

    Raises:
        CheckpointError: no run there, or its configuration or metrics cannot be read.
    """
    evidence = gather(path)
    try:
        verdict = judge(evidence.records)
        alerts = Counter(str(name) for r in evidence.records for name in r.get("alerts", ()))
        return Diagnosis(evidence, verdict, find(evidence, verdict), alerts)
    # Lines that are JSON, but not what a trainer writes, fail wherever they are first looked at.
    except (AttributeError, LookupError, TypeError, ValueError, ArithmeticError) as error:
        metrics = RunFolder(evidence.path).metrics_path
        raise CheckpointError(
            f"{metrics} is damaged ({type(error).__name__}: {error}): restore it, or delete it to "
            "look at the checkpoints alone"
        ) from error


def diagnose_all(
    folder: str | Path,
    on_run: Callable[[int, int], None] = lambda done, total: None,
    family: str | None = None,
) -> list[Diagnosis | Unreadable]:
    """The diagnosis of every run below `folder`, by name; one that cannot be read says why.

    Args:
        folder: where runs are, at any depth.
        on_run: told how many are done, of how many.
        family: model.family of those that are wanted; what cannot be read may be of any. None: all.

    Raises:
        CheckpointError: there is no run, or none of the family.
    """
    root = Path(folder).expanduser()
    configs = root.rglob(CONFIG_FILE)
    runs = sorted(path.parent for path in configs if RunFolder(path.parent).checkpoints.is_dir())
    if not runs:
        raise CheckpointError(f"{root} holds no run: name a folder that `ebm train` wrote runs to")
    results: list[Diagnosis | Unreadable] = []
    for number, run in enumerate(runs, 1):
        try:
            if family is None or RunFolder(run).read_config().model.family == family:
                results.append(diagnose(run))
        except EbmError as error:
            results.append(Unreadable(run, str(error)))
        on_run(number, len(runs))
    if not results:
        raise CheckpointError(
            f"{root} holds no run of model.family={family}: name another folder or family"
        )
    return results
