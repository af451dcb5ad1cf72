"""Tables of splats: what other programs made of them is read, and what is impossible refused."""

import csv

import pyarrow
import pytest
from pyarrow import parquet

from ebm_wgpu.errors import StoreError
from ebm_wgpu.splats import SplatStore
from ebm_wgpu.splats.export import import_splats

from .conftest import assert_same, make_store
from .test_export import exported


def test_tables_edited_elsewhere_are_read(tmp_path):
    """A table that lost its derived columns, has another column, and lists of free length."""
    store = make_store(count=9, states=None)
    table = parquet.read_table(exported(tmp_path, ".parquet", store))
    mu = pyarrow.array(table.column("mu").to_pylist(), pyarrow.list_(pyarrow.float32()))
    table = table.drop_columns(["token", "log_weight", "mu"]).append_column("mu", mu)
    parquet.write_table(
        table.append_column("note", pyarrow.array(["x"] * 9)), tmp_path / "e.parquet"
    )
    import_splats(tmp_path / "e.parquet", tmp_path / "back.h5")
    assert_same(SplatStore.load(tmp_path / "back.h5"), store)


def edited_csv(path, edit) -> None:
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    edit(rows)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0].keys() if rows else ["sid"])
        writer.writeheader()
        writer.writerows(rows)


def without(name: str):
    def edit(rows) -> None:
        for row in rows:
            del row[name]

    return edit


def with_cell(number: int, name: str, value: str):
    def edit(rows) -> None:
        rows[number][name] = value

    return edit


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (without("alpha"), "column alpha is missing"),
        (without("mu_2"), "mu_0, mu_1, ... are not all there"),
        (with_cell(2, "kappa", "70"), "kappa of row 2 is 70"),
        (with_cell(1, "alpha", "-1"), "alpha of row 1 is -1"),
        (with_cell(1, "alpha", "nan"), "column alpha has cells without a number"),
        (with_cell(3, "mu_0", "5"), "mu of row 3 has length"),
        (with_cell(3, "mu_0", ""), "column mu_0 has cells without a number"),
        (with_cell(1, "sid", "one"), "damaged, or not splats"),
        (with_cell(1, "kappa_min", "0.5"), "same in all rows"),
        (lambda rows: rows.clear(), "missing|not all there|dimension 0"),
    ],
)
def test_impossible_tables_are_refused_with_the_reason(tmp_path, edit, message):
    table = exported(tmp_path, ".csv", make_store(count=6))
    edited_csv(table, edit)
    with pytest.raises(StoreError, match=message) as caught:
        import_splats(table, tmp_path / "back.h5")
    assert "table.csv" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "back.h5").exists()
