"""Pictures: every kind is drawn with the right values on it, and written whole or not at all."""

import numpy as np
import pytest
from matplotlib.collections import PathCollection
from matplotlib.image import imread

from ebm_wgpu.errors import ConfigError, StoreError
from ebm_wgpu.landscape import Landscape
from ebm_wgpu.splats.plots import histograms, landscape_figure, map_figure, save_figure
from ebm_wgpu.splats.splat_file import SplatFile
from ebm_wgpu.splats.splat_map import COLOURS, SplatMap, make_map

from .conftest import make_store

# Texts that a careless label would take for mathematics, or that no font has.
TEXTS = ("$x^", "a_b$", "漢", " the", "", "\\frac", "%")


@pytest.fixture
def splats(tmp_path) -> SplatMap:
    store = make_store(count=60)
    store.frequency[:9] = 0
    store.save(tmp_path / "splats.h5")
    with SplatFile(tmp_path / "splats.h5") as file:
        return make_map(file, lambda token: TEXTS[token % len(TEXTS)])


@pytest.mark.parametrize("colour", COLOURS)
def test_a_map_shows_every_splat_in_its_colour(splats, colour):
    figure = map_figure(splats, colour)
    grey, coloured = (c for c in figure.axes[0].collections if isinstance(c, PathCollection))
    values = splats.values[colour]
    unused = values == 0
    if colour != "usage":
        unused = np.zeros(60, bool)
    assert np.allclose(np.sort(coloured.get_array()), np.sort(values[~unused]))
    drawn = np.concatenate([grey.get_offsets(), coloured.get_offsets()])
    assert np.allclose(np.sort(drawn, axis=0), np.sort(splats.points, axis=0))
    assert len(grey.get_offsets()) == unused.sum()
    assert figure.axes[1].get_ylabel() == COLOURS[colour]


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_pictures_are_written_in_the_form_of_their_suffix(splats, tmp_path, suffix, recwarn):
    path = tmp_path / f"map{suffix}"
    save_figure(map_figure(splats), path)
    start = path.read_bytes()[:200]
    assert start.startswith({".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}[suffix])
    if suffix == ".png":
        pixels = imread(path)
        assert pixels.shape[0] > 500
        shades = np.round(255 * pixels[..., :3]).astype(int) @ [1 << 16, 1 << 8, 1]
        assert len(np.unique(shades)) > 100
    assert not [warning for warning in recwarn if "Glyph" in str(warning.message)]
    assert {entry.name for entry in tmp_path.iterdir()} == {path.name, "splats.h5"}


def test_histograms_count_every_splat():
    store = make_store(count=200)
    store.frequency[:30] = 0
    store.age[:] = np.arange(200) % 7
    figure = histograms(store.columns, np.linspace(1, 40, 25))
    drawn = [sum(bar.get_height() for bar in axes.patches) for axes in figure.axes]
    tokens = len(np.unique(store.sid))
    assert drawn == [200, 200, 170, 200, tokens, 25]
    assert "30 unused" in figure.axes[2].get_xlabel()
    assert [bar.get_height() for bar in figure.axes[3].patches] == [29, 29, 29, 29, 28, 28, 28]


def test_histograms_of_one_unused_splat_are_drawn(tmp_path):
    store = make_store(count=1)
    store.frequency[:] = 0
    save_figure(histograms(store.columns, np.zeros(0)), tmp_path / "one.png")
    assert (tmp_path / "one.png").stat().st_size > 1000


def test_a_landscape_shows_its_curves_and_names_the_splats(tmp_path):
    angle = np.linspace(-30, 70, 21)
    splat = np.repeat([4, 9, 2], 7)
    curves = [np.sin(angle / 20) + shift for shift in (0, 1, 2)]
    figure = landscape_figure(
        Landscape(angle, 40.0, *curves, splat=splat), ("$a", "b"), [f"t{k}" for k in splat]
    )
    lines = [line.get_ydata() for line in figure.axes[0].lines if len(line.get_ydata()) == 21]
    assert np.array_equal(lines, curves)
    assert [text.get_text() for text in figure.axes[1].texts] == ["t4", "t9", "t2"]
    save_figure(figure, tmp_path / "land.svg")
    assert "40.0 degrees apart" in figure.axes[0].get_title()


def test_bad_requests_are_refused(splats, tmp_path):
    with pytest.raises(ConfigError, match="cannot colour splats by 'size'"):
        map_figure(splats, "size")
    figure = map_figure(splats)
    with pytest.raises(ConfigError, match=r"use \.png, \.svg, \.pdf"):
        save_figure(figure, tmp_path / "x.gif")
    with pytest.raises(StoreError, match="cannot write"):
        save_figure(figure, tmp_path / "absent" / "x.png")
