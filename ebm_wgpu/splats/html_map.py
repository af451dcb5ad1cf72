"""A map of splats to explore in a browser: one HTML file that needs no network or other file."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

import numpy as np

from ebm_wgpu.errors import StoreError
from ebm_wgpu.files import write_atomically
from ebm_wgpu.splats.splat_map import COLOURS, LOGARITHMIC, SplatMap

_LARGEST_POINT = 16.0
_DETAILS = (
    "<b>%{customdata[0]}</b><br>splat %{customdata[1]}, token %{customdata[2]}"
    "<br>usage %{customdata[3]:.3g}<br>weight %{customdata[4]:.3g}"
    "<br>kappa %{customdata[5]:.3f}<br>age %{customdata[6]}<extra></extra>"
)
_SEARCH = """
const plot = document.getElementById('{plot_id}');
document.body.style.margin = '0';
const box = document.createElement('input');
box.type = 'search';
box.placeholder = 'find a token';
box.style.cssText = 'position:absolute;left:80px;top:14px;padding:4px 8px;font:14px sans-serif';
const said = document.createElement('span');
said.style.cssText = 'position:absolute;left:290px;top:19px;font:13px sans-serif;color:#555';
document.body.append(box, said);
const names = plot.data[0].text;
box.addEventListener('input', () => {
  const wanted = box.value.toLowerCase();
  const hit = (name) => wanted && name.toLowerCase().includes(wanted);
  const found = [...names.keys()].filter((i) => hit(names[i]));
  said.textContent = wanted ? found.length + ' of ' + names.length : '';
  Plotly.restyle(plot, {selectedpoints: [wanted ? found : null]}, [0]);
});
"""


def write_html_map(splats: SplatMap, path: Path, colour: str = "usage") -> None:
    """Write an interactive map: zoom, details under the pointer, a choice of colours, a search.

    Args:
        splats: what to draw.
        path: the file to write, whole or not at all.
        colour: a key of `splat_map.COLOURS`, shown at first.

    Raises:
        StoreError: the file cannot be written.
    """
    document = _figure(splats, colour).to_html(
        include_plotlyjs=True,
        include_mathjax=False,
        full_html=True,
        default_width="100%",
        default_height="100vh",
        post_script=_SEARCH,
        config={"displaylogo": False, "scrollZoom": True, "responsive": True},
        div_id="splats",
    )
    try:
        write_atomically(path, document.encode())
    except OSError as error:
        raise StoreError(f"{path}: cannot write: {error.strerror or error}") from error


def _figure(splats: SplatMap, colour: str) -> Any:
    from plotly import graph_objects  # type: ignore[import-untyped]

    # Texts are shown as HTML: a token such as <unk> must not be taken for a tag.
    names = [html.escape(name) for name in splats.names]
    details = np.empty((len(names), 3 + len(COLOURS)), object)
    details[:, 0] = names
    details[:, 1], details[:, 2] = splats.indices, splats.tokens
    for place, name in enumerate(COLOURS, 3):
        details[:, place] = splats.values[name]
    sizes = np.sqrt(splats.sizes)
    numbers, label = _colouring(splats, colour)
    points = graph_objects.Scattergl(
        x=splats.points[:, 0].astype(np.float32),
        y=splats.points[:, 1].astype(np.float32),
        mode="markers",
        text=list(splats.names),
        customdata=details,
        hovertemplate=_DETAILS,
        marker={
            "size": np.round(sizes * _LARGEST_POINT / sizes.max(), 1),
            "colorscale": "Viridis",
            "showscale": True,
            "opacity": 0.8,
            "line": {"width": 0},
            **numbers,
            "colorbar": {"title": {"text": label}},
        },
        unselected={"marker": {"opacity": 0.1}},
        selected={"marker": {"opacity": 1.0, "color": "#d55e00"}},
    )
    choices = [
        {"label": name, "method": "restyle", "args": [_change(*_colouring(splats, name))]}
        for name in COLOURS
    ]
    figure = graph_objects.Figure(points)
    figure.update_layout(
        title={"text": html.escape(splats.title), "x": 0.5},
        template="plotly_white",
        xaxis_title=splats.axes[0],
        yaxis_title=splats.axes[1],
        dragmode="pan",
        margin={"l": 60, "r": 20, "t": 60, "b": 50},
        updatemenus=[
            {
                "buttons": choices,
                "active": list(COLOURS).index(colour),
                "x": 1.0,
                "xanchor": "right",
                "y": 1.07,
            }
        ],
    )
    figure.update_yaxes(scaleanchor="x")
    return figure


def _change(numbers: dict[str, Any], label: str) -> dict[str, Any]:
    """What turns the drawn points into another colouring."""
    change: dict[str, Any] = {f"marker.{name}": [value] for name, value in numbers.items()}
    return {**change, "marker.colorbar.title.text": label}


def _colouring(splats: SplatMap, name: str) -> tuple[dict[str, Any], str]:
    """Values, limits and label of a colouring; base-ten logarithms of what spans decades."""
    values = np.asarray(splats.values[name], np.float64)
    label = COLOURS[name]
    if name in LOGARITHMIC and (values > 0).any():
        values = np.log10(np.maximum(values, values[values > 0].min()))
        label = f"log10 {label}"
    low, high = np.quantile(values, [0.01, 0.99])
    if low == high:
        low, high = values.min(), values.max()
    numbers = {"color": values.astype(np.float32), "cmin": float(low), "cmax": float(high)}
    return numbers, label
