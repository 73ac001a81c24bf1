"""The one template, its colours, and what every figure shares. Importing it sets plotly up."""

from __future__ import annotations

import html

import plotly.graph_objects as go
import plotly.io as pio

# Without this plotly 7 shows a button that uploads the data to a public service.
PLOT_CONFIG = {"showSendToCloud": False, "displaylogo": False, "responsive": True}

INK, MUTED, GRID, NEUTRAL = "#1b2733", "#5b6b7b", "#e6ebf0", "#93a3b3"
UNUSED = "#e0a030"
GOOD, BAD, ACCENT, SECOND, THIRD = "#1a7f4b", "#c0362c", "#1f6feb", "#8250df", "#bf6a02"
# Colour-blind safe enough to tell neighbours apart; cold_start is the grey baseline.
CAUSE_COLOURS = {
    "cold_start": "#b6c2cf",
    "key_prefix": "#c0362c",
    "key_naming": "#d95f43",
    "key_version": "#a32a63",
    "ttl_unit": "#bf6a02",
    "ttl_short": "#e0a030",
    "eviction": "#8250df",
    "invalidation_storm": "#1f6feb",
    "flush": "#0d7d8c",
    "set_skipped": "#5b6b7b",
    "serialization": "#a32a63",
}
_FONT = "system-ui, -apple-system, 'Segoe UI', sans-serif"

_AXIS = {
    "gridcolor": GRID,
    "zeroline": False,
    "linecolor": GRID,
    "ticks": "",
    "automargin": True,
    "title": {"standoff": 8},
}
pio.templates["coldcache"] = go.layout.Template(
    layout={
        "font": {"family": _FONT, "size": 13, "color": INK},
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "colorway": [ACCENT, BAD, GOOD, SECOND, THIRD, "#0d7d8c"],
        "xaxis": _AXIS,
        "yaxis": _AXIS,
        "title": {"x": 0, "xref": "paper", "font": {"size": 16}},
        "legend": {"orientation": "h", "x": 0, "y": 1.0, "yanchor": "bottom", "traceorder": "normal", "title": {"text": ""}},
        "margin": {"l": 60, "r": 24, "t": 72, "b": 44},
        "hoverlabel": {"font": {"family": _FONT}},
    }
)
pio.templates.default = "coldcache"
# Whatever PLOTLY_RENDERER says: the export puts figures into the report from this type alone.
pio.renderers.default = "plotly_mimetype"
pio.renderers["plotly_mimetype"].config = dict(PLOT_CONFIG)


def safe(text: str) -> str:
    """Escape text for a plotly label: plotly interprets HTML in names, titles, ticks and hovers."""
    return html.escape(text, quote=False)


def note(text: str) -> go.Figure:
    """Return a figure that says in words why there is nothing to draw."""
    figure = go.Figure()
    figure.add_annotation(
        text=safe(text), showarrow=False, font={"size": 15, "color": MUTED}, x=0.5, y=0.5, xref="paper", yref="paper"
    )
    figure.update_layout(height=120, xaxis={"visible": False}, yaxis={"visible": False}, margin={"t": 10, "b": 10})
    return figure
