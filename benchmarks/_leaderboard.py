"""The leaderboard: rows in leaderboard.json, and the table of LEADERBOARD.md made of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
COLUMNS = (
    "date",
    "model",
    "parameters",
    "data",
    "hardware",
    "minutes",
    "static",
    "online",
    "commit",
    "command",
)
_HEAD = """# Leaderboard

Validation perplexity per word, each word scored once with left context. "static" models stay as
they are while they read the text; "online" ones remember what they have read of it. Minutes are the
wall clock of training. A commit with + had changes that were not committed. Rows come from
`benchmarks/wikitext.py`; `leaderboard.json` has the same with all digits.
"""


def add_rows(rows: Iterable[Mapping[str, Any]], folder: Path = FOLDER) -> None:
    """Append rows to leaderboard.json, and write LEADERBOARD.md anew, the best static first.

    Args:
        rows: values for all of `COLUMNS`.
        folder: where both files are.
    """
    record = folder / "leaderboard.json"
    known = json.loads(record.read_text(encoding="utf-8")) if record.exists() else []
    known += [{column: row[column] for column in COLUMNS} for row in rows]
    record.write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")
    ranked = sorted(known, key=lambda row: row["static"])
    lines = [_line(COLUMNS), _line("---" for _ in COLUMNS)]
    lines += [_line(_cell(row[column]) for column in COLUMNS) for row in ranked]
    (folder / "LEADERBOARD.md").write_text(_HEAD + "\n" + "\n".join(lines) + "\n", encoding="utf-8")


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.1f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
