"""The interactive map: one file, nothing loaded from elsewhere, tokens shown as text."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from ebm_wgpu.errors import StoreError
from ebm_wgpu.splats.html_map import write_html_map
from ebm_wgpu.splats.splat_file import SplatFile
from ebm_wgpu.splats.splat_map import COLOURS, SplatMap, make_map

from .conftest import make_store

TEXTS = ("<unk>", "</script><script>alert(1)</script>", "a&b", "'", '"', "漢")


@pytest.fixture
def splats(tmp_path) -> SplatMap:
    store = make_store(count=30)
    store.frequency[:5] = 0
    store.save(tmp_path / "splats.h5")
    with SplatFile(tmp_path / "splats.h5") as file:
        return make_map(file, lambda token: TEXTS[token % len(TEXTS)])


class Page(HTMLParser):
    """What a browser would load, and how many scripts there are."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.scripts = 0

    def handle_starttag(self, tag, attrs) -> None:
        self.scripts += tag == "script"
        self.loaded += [value for name, value in attrs if name in ("src", "href") and value]


def test_the_file_needs_nothing_else(splats, tmp_path):
    write_html_map(splats, tmp_path / "map.html")
    text = (tmp_path / "map.html").read_text(encoding="utf-8")
    page = Page()
    page.feed(text)
    assert page.loaded == []
    # The library, its settings and the plot: no token has become a script.
    assert page.scripts == 3
    assert len(text) > 1_000_000
    assert "alert(1)</script>" not in text
    assert {entry.name for entry in tmp_path.iterdir()} == {"map.html", "splats.h5"}


def test_points_names_and_colours_are_those_of_the_map(splats, tmp_path):
    write_html_map(splats, tmp_path / "map.html", "kappa")
    text = (tmp_path / "map.html").read_text(encoding="utf-8")
    found = re.search(
        r'Plotly\.newPlot\(\s*"splats",\s*(\[.*?\]),\s*(\{.*?\}),\s*\{"disp', text, re.S
    )
    assert found
    (trace,), layout = (json.loads(part) for part in found.groups())
    assert tuple(trace["text"]) == splats.names
    assert trace["customdata"][0][0] != "<unk>"
    details = np.array([row[1:] for row in trace["customdata"]], float)
    assert np.array_equal(details[:, 0], splats.indices)
    assert np.allclose(details[:, 4], splats.values["kappa"])
    menu = layout["updatemenus"][0]
    assert [button["label"] for button in menu["buttons"]] == list(COLOURS)
    assert menu["active"] == list(COLOURS).index("kappa")


def test_a_folder_that_is_not_there_is_one_line(splats, tmp_path):
    with pytest.raises(StoreError, match="cannot write"):
        write_html_map(splats, tmp_path / "absent" / "map.html")
