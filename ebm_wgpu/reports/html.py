"""Reports as one HTML file: no network, no script, pictures inside."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ebm_wgpu.reports.plots import Plot, comparison_figure, run_plots, spread_plots, to_svg

if TYPE_CHECKING:
    from ebm_wgpu.diagnosis.comparison import Comparison
    from ebm_wgpu.diagnosis.diagnose import Diagnosis, Unreadable

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1d2733; background: #fff;
  max-width: 1120px; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.6rem } h2 { font-size: 1.3rem; margin-top: 2.5rem; overflow-wrap: anywhere }
h3 { font-size: 1.05rem; margin-top: 1.6rem }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
.scroll { overflow-x: auto }
th, td { text-align: left; padding: .3rem .7rem .3rem 0; border-bottom: 1px solid #dde3ea;
  vertical-align: top }
th { font-weight: 600; color: #55616e }
:is(td, th):not(:first-child, :last-child) { text-align: right }
.badge { display: inline-block; padding: 0 .55rem; border-radius: 1rem; font-weight: 600;
  border: 1px solid currentColor; margin-right: .5rem }
.excellent, .good, .converging, .stable { color: #17693a }
.fair, .attention, .warning { color: #8a5a00 }
.bad, .diverging, .serious { color: #b3212c }
.note { color: #55616e }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(330px, 1fr)); gap: 1.4rem;
  margin-top: 1.6rem }
figure { margin: 0 } figure img { width: 100%; height: auto }
figcaption { font-weight: 600; font-size: .95rem }
.finding { border-left: 4px solid currentColor; padding: .1rem 0 .1rem .9rem; margin: .9rem 0 }
.finding > * { color: #1d2733; margin: .15rem 0 } .finding > b { color: inherit }
code { background: #f2f5f8; padding: 0 .25rem; overflow-wrap: anywhere }
"""

_TEMPLATE = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title><style>{{ style|safe }}</style></head>
<body>
<h1>{{ title }}</h1>
{%- macro table(head, rows) %}
<div class="scroll"><table><thead><tr>
{%- for name in head %}<th>{{ name }}</th>{% endfor -%}
</tr></thead><tbody>
{%- for row in rows %}
<tr>
{%- for cell in row %}<td>{{ cell }}</td>{% endfor -%}
</tr>
{%- endfor %}
</tbody></table></div>
{%- endmacro %}
{%- for section in sections %}
{%- if section.title %}
<h2>{{ section.title }}</h2>
{%- endif %}
{%- if section.badges %}
<p>
{%- for badge in section.badges %}
<span class="badge {{ badge.split()[-1] }}">{{ badge }}</span>
{%- endfor %}
</p>
{%- endif %}
{%- for line in section.lines %}
<p>{{ line }}</p>
{%- endfor %}
{%- for finding in section.findings %}
<div class="finding {{ finding.severity }}"><b>{{ finding.severity }}: {{ finding.name }}</b>
<p>{{ finding.evidence }}</p>
<p><b>Likely cause</b> {{ finding.cause }}</p>
<p><b>Remedy</b> {{ finding.remedy }}</p></div>
{%- endfor %}
{%- for caption, head, rows in section.tables %}
{%- if caption %}
<h3>{{ caption }}</h3>
{%- endif %}
{{ table(head, rows) }}
{%- endfor %}
{%- if section.plots %}
<div{% if not section.wide %} class="plots"{% endif %}>
{%- for plot in section.plots %}
<figure><figcaption>{{ plot.title }}</figcaption>
<img alt="{{ plot.title }}" src="{{ plot.source }}"></figure>
{%- endfor %}
</div>
{%- endif %}
{%- endfor %}
</body>
</html>
"""


def diagnosis_html(results: Sequence[Diagnosis | Unreadable]) -> str:
    """The report on one run, or on several with a table of contents."""
    from ebm_wgpu.diagnosis.diagnose import Diagnosis
    from ebm_wgpu.diagnosis.tables import OVERVIEW_HEAD, overview_row

    sections: list[dict[str, Any]] = []
    if len(results) > 1:
        rows = [overview_row(result) for result in results]
        sections.append({"tables": [("", OVERVIEW_HEAD, rows)]})
    for result in results:
        if isinstance(result, Diagnosis):
            sections.append(_diagnosis_section(result))
        else:
            sections.append(
                {"title": str(result.path), "badges": ["bad"], "lines": [result.reason]}
            )
    many = f"{len(results)} runs"
    return _page("Diagnosis" if len(results) == 1 else f"Diagnosis of {many}", sections)


def comparison_html(comparison: Comparison) -> str:
    """The report on runs side by side."""
    from ebm_wgpu.diagnosis.tables import COMPARISON_HEAD, comparison_rows

    plots = [Plot("Validation perplexity", to_svg(comparison_figure(comparison.curves)))]
    section = {
        "lines": comparison.warnings,
        "tables": [("", COMPARISON_HEAD, comparison_rows(comparison))],
        "plots": _sources(plots),
        "wide": True,
    }
    return _page(f"{len(comparison.runs)} runs compared", [section])


def _diagnosis_section(diagnosis: Diagnosis) -> dict[str, Any]:
    from ebm_wgpu.diagnosis.tables import (
        CHECKPOINT_HEAD,
        RATING_HEAD,
        checkpoint_rows,
        headline,
        rating_rows,
    )

    evidence, verdict = diagnosis.evidence, diagnosis.verdict
    best = next((s.step for s in evidence.checkpoints if "best" in s.names), None)
    plots = run_plots(evidence.records, best)
    latest = evidence.latest
    if latest is not None and latest.spreads:
        plots += spread_plots(latest.spreads)
    tables: list[tuple[str, Sequence[str], Sequence[Sequence[str]]]] = []
    if verdict.ratings:
        tables.append(("Figures", RATING_HEAD, rating_rows(verdict)))
    if evidence.checkpoints:
        tables.append(("Checkpoints", CHECKPOINT_HEAD, checkpoint_rows(evidence.checkpoints)))
    return {
        "title": str(evidence.path),
        "badges": [verdict.quality, verdict.trend],
        "lines": [headline(diagnosis), verdict.reasons[0]],
        "findings": diagnosis.findings,
        "tables": tables,
        "plots": _sources(plots),
    }


def _sources(plots: Sequence[Plot]) -> list[dict[str, str]]:
    # An image of its own keeps the ids inside one SVG from meeting those of another.
    return [
        {
            "title": plot.title,
            "source": f"data:image/svg+xml;base64,{base64.b64encode(plot.svg.encode()).decode()}",
        }
        for plot in plots
    ]


def _page(title: str, sections: Sequence[dict[str, Any]]) -> str:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    names = ("badges", "lines", "findings", "tables", "plots")
    empty: dict[str, Any] = {**dict.fromkeys(names, ()), "title": "", "wide": False}
    filled = [{**empty, **section} for section in sections]
    return environment.from_string(_TEMPLATE).render(title=title, style=_STYLE, sections=filled)
