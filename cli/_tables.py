"""Tables of text for terminals and files."""

from __future__ import annotations

from collections.abc import Sequence


def aligned(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of columns as wide as need be: the first and last to the left, others to the right.

    Columns that hold nothing but dashes are left out.
    """
    kept = [i for i in range(len(head)) if any(row[i] != "-" for row in rows)]
    table = [[row[i] for i in kept] for row in (head, *rows)]
    widths = [max(len(row[i]) for row in table) for i in range(len(kept))]
    return [
        "  ".join(
            cell.ljust(width) if i in (0, len(kept) - 1) else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    ]
