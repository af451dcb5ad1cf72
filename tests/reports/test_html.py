"""HTML reports: whole, self-contained, and safe whatever names and messages hold."""

import base64
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from ebm_wgpu.config import Config
from ebm_wgpu.diagnosis.comparison import Comparison, RunCurve, RunSummary
from ebm_wgpu.diagnosis.diagnose import Diagnosis, Unreadable
from ebm_wgpu.diagnosis.evidence import CheckpointState, Evidence, Spread
from ebm_wgpu.diagnosis.findings import Finding
from ebm_wgpu.errors import ConfigError
from ebm_wgpu.reports.files import write_report
from ebm_wgpu.reports.html import comparison_html, diagnosis_html
from ebm_wgpu.reports.plots import comparison_figure, run_plots, to_png, to_svg
from ebm_wgpu.training.verdicts import judge

VOID = {"meta", "img"}
EVIL = "<script>alert('run')</script> & \"co\""


class Checker(HTMLParser):
    """Tags in order, and whether every one is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.images: list[str] = []
        self.links: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.links += [v for k, v in values.items() if k in ("href", "src") and v]
        if tag == "img":
            self.images.append(values["src"])
            assert values["alt"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def parse(html: str) -> Checker:
    checker = Checker()
    checker.feed(html)
    assert checker.open == []
    assert all(link.startswith("data:image/svg+xml;base64,") for link in checker.links)
    for image in checker.images:
        svg = base64.b64decode(image.partition(",")[2])
        assert ElementTree.fromstring(svg).tag.endswith("svg")
    assert "<script" not in html
    assert not re.search(r"https?://", html)
    return checker


def records(n=40):
    lines = [{"step": 0, "unigram_nll": 6.0}]
    for step in range(10, 10 * n, 10):
        level = {"kappa": 5.0, "loss": 0.3, "floor": 0.2, "explained": 0.8 if step > 50 else None}
        loss = 3 + 100 / step
        lines.append({
            "step": step, "token": loss, "latent": -1.0, "energy": -step / 10, "grad_norm": 1.0,
            "lr": 1e-3, "tokens_per_second": 100.0, "elapsed": step / 2,
            "splats": {"kappa_max": 9.0, "kappa_mean": 5.0, "kappa_min": 1.0, "active": 30,
                       "effective": 9.0, "count": 40},
            "valid": {"nll_per_token": loss, "token_perplexity": 20.0, "word_perplexity": 90.0,
                      "score_matching": [level]},
        })  # fmt: skip
    return lines


def diagnosis(name="run", lines=None) -> Diagnosis:
    lines = records() if lines is None else lines
    spreads = {"kappa": Spread((1, 4, 2), (1.0, 2.0, 3.0, 4.0))}
    states = (CheckpointState(10, ("best",)), CheckpointState(20, ("last",), spreads=spreads))
    evidence = Evidence(Path(name), Config(), tuple(lines), (), states)
    finding = Finding("kappa limit", "warning", f"seen {EVIL}", "because", "do this")
    return Diagnosis(evidence, judge(lines), (finding,), {})


def test_a_report_is_one_whole_page_with_its_plots():
    page = parse(diagnosis_html([diagnosis()]))
    assert len(page.images) == 10
    assert "Score matching, explained share" in " ".join(page.text)
    text = " ".join(page.text)
    for part in ("warning: kappa limit", "Likely cause", "do this", "family splat", "Checkpoints"):
        assert part in text
    assert f"seen {EVIL}" in text


def test_many_runs_have_an_overview_and_unreadable_ones_a_reason():
    few = [{"step": step, "energy": -1.0} for step in (1, 2)]
    page = parse(
        diagnosis_html(
            [diagnosis("a", few), Unreadable(Path(EVIL), "no config"), diagnosis("b", few)]
        )
    )
    assert len(page.images) == 4
    text = " ".join(page.text)
    assert "Diagnosis of 3 runs" in text
    assert "unreadable" in text
    assert text.count("no config") == 2
    assert EVIL in text


def test_a_run_without_metrics_has_a_report_without_plots():
    bare = Diagnosis(Evidence(Path("bare"), Config(), (), (), ()), judge([]), (), {})
    assert parse(diagnosis_html([bare])).images == []


def test_plots_are_drawn_of_what_is_there_only():
    assert run_plots([], None) == []
    lines = [{"step": s, "lr": 0.1, "token": 1.0} for s in (1, 2)]
    assert [plot.title for plot in run_plots(lines, None)] == [
        "Cross-entropy", "Gradient norm and learning rate",
    ]  # fmt: skip
    infinite = [{"step": s, "energy": None, "valid": {"nll_per_token": None}} for s in (1, 2)]
    assert run_plots(infinite, None) == []


def comparison() -> Comparison:
    summary = {
        "family": "splat", "parameters": 1000, "data": "text", "step": 100, "seconds": 50.0,
        "tokens_per_second": 9.0, "best_step": 50, "word_perplexity": 80.0,
        "token_perplexity": 20.0, "bits_per_byte": 1.5, "word_perplexity_at_equal_time": 85.0,
        "quality": "good", "trend": "stable",
    }  # fmt: skip
    names = ("one", EVIL)
    return Comparison(
        tuple(RunSummary(label=name, path=name, **summary) for name in names),
        tuple(RunCurve(name, (0, 50), (0.0, 25.0), (900.0, 80.0)) for name in names),
        50.0,
        ("these cannot be compared",),
    )


def test_a_comparison_shows_runs_warnings_and_curves():
    page = parse(comparison_html(comparison()))
    text = " ".join(page.text)
    assert len(page.images) == 1
    assert "these cannot be compared" in text
    assert EVIL in text
    assert "80.00" in text


def test_pictures_are_the_same_each_time_and_of_their_kind():
    curves = comparison().curves
    assert to_svg(comparison_figure(curves)) == to_svg(comparison_figure(curves))
    assert to_png(comparison_figure(curves)).startswith(b"\x89PNG")


def test_a_report_that_cannot_be_written_is_a_one_line_error(tmp_path):
    with pytest.raises(ConfigError, match="cannot be written"):
        write_report(tmp_path / "missing" / "report.html", b"x")
    write_report(tmp_path / "report.html", b"x")
    assert (tmp_path / "report.html").read_bytes() == b"x"
