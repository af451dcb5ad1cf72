import re
import subprocess
import sys
import types
from pathlib import Path

import pytest

from ebm_wgpu.errors import ConfigError
from ebm_wgpu.training.alerts import Alert
from ebm_wgpu.training.callbacks import StepEvent, TrainResult
from ebm_wgpu.training.reports import open_reports, scalars
from ebm_wgpu.training.run_folder import TENSORBOARD_FOLDER

RECORD = {
    "step": 7,
    "loss": 2.5,
    "energy": None,
    "splats": {"active": 30},
    "valid": {"nll_per_token": 2.0, "score_matching": [{"kappa": 5.0, "explained": 0.9}]},
    "alerts": ["x"],
}
EXPECTED = {
    "loss": 2.5,
    "splats/active": 30.0,
    "valid/nll_per_token": 2.0,
    "valid/score_matching/5/kappa": 5.0,
    "valid/score_matching/5/explained": 0.9,
}
ALERT = Alert("disk-space", "error", 7, "seen", "cause", "remedy")
RESULT = TrainResult("finished", 8, 1.0, Path("c"), None, None, None)


def event(step, record):
    return StepEvent(step, 1.0, 2.5, {}, 0.1, 10.0, record)


def tell(report):
    report.on_alert(ALERT)
    report.on_step(event(6, None))
    report.on_step(event(7, RECORD))
    report.on_alert(ALERT)
    report.on_end(RESULT)


def test_the_numbers_of_a_line_have_paths_for_names():
    assert dict(scalars(RECORD)) == EXPECTED


def test_no_report_imports_nothing(tmp_path):
    assert open_reports("none", tmp_path) == []
    code = (
        "import sys, ebm_wgpu.training.trainer, ebm_wgpu.training.reports\n"
        "assert not {'wandb', 'tensorboard'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_tensorboard_reads_what_was_written(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (report,) = open_reports("tensorboard", tmp_path)
    tell(report)
    events = EventAccumulator(str(tmp_path / TENSORBOARD_FOLDER)).Reload()
    assert set(events.Tags()["scalars"]) == set(EXPECTED)
    for name, value in EXPECTED.items():
        (scalar,) = events.Scalars(name)
        assert (scalar.step, scalar.value) == (7, pytest.approx(value, rel=1e-7))
    assert events.Tags()["tensors"] == ["alerts/disk-space/text_summary"]


def test_wandb_gets_lines_and_alerts_of_one_session(tmp_path, monkeypatch):
    calls = []
    session = types.SimpleNamespace(
        log=lambda values, step: calls.append(("log", values, step)),
        alert=lambda title, text: calls.append(("alert", title, text)),
        finish=lambda: calls.append(("finish",)),
    )

    def init(**options):
        calls.append(("init", options))
        return session

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init))
    run = tmp_path / "nano-1"
    (report,) = open_reports("wandb", run)
    tell(report)
    (_, options), *rest = calls
    identity = options.pop("id")
    assert re.fullmatch(r"nano-1-[0-9a-f]{8}", identity)
    assert options == {
        "project": "ebm-wgpu", "name": "nano-1", "dir": str(run), "resume": "allow",
    }  # fmt: skip
    assert rest == [
        ("log", EXPECTED, 7),
        ("alert", "disk-space", ALERT.line),
        ("finish",),
    ]
    # Another process goes on with the same session, another folder has another one.
    for folder, same in ((run, True), (tmp_path / "other" / "nano-1", False)):
        calls.clear()
        tell(*open_reports("wandb", folder))
        assert (calls[0][1]["id"] == identity) is same


@pytest.mark.parametrize("report", ["tensorboard", "wandb"])
def test_a_missing_package_is_named_with_its_extra(tmp_path, monkeypatch, report):
    for module in ("torch.utils.tensorboard", "tensorboard", "wandb"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=rf"pip install 'ebm-wgpu\[{report}\]'"):
        open_reports(report, tmp_path)
