"""Aligned tables of text."""

from ebm_wgpu.cli._tables import aligned


def test_columns_are_as_wide_as_need_be_and_empty_ones_left_out() -> None:
    rows = [("a", "1", "-", "x"), ("bcd", "1,000", "-", "longer")]
    assert aligned(("name", "n", "none", "last"), rows) == [
        "name      n  last",
        "a         1  x",
        "bcd   1,000  longer",
    ]
    assert aligned(("name", "n"), []) == [""]
