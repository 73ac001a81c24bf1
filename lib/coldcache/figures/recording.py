"""A recording while it runs: hit rate, commands, misses by key state, and what it costs the server."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from coldcache.figures.theme import ACCENT, CAUSE_COLOURS, GOOD, MUTED, NEUTRAL, SECOND, THIRD, safe

# The colours of the causes that these states point to.
_STATE_COLOURS = {
    "never written": CAUSE_COLOURS["cold_start"],
    "expired": CAUSE_COLOURS["ttl_short"],
    "evicted": CAUSE_COLOURS["eviction"],
    "deleted": CAUSE_COLOURS["invalidation_storm"],
}
_PANELS = (
    "Hit rate",
    "Commands per second",
    "Misses per second, by what had become of the key",
    "What recording costs the server: stream to us (left), waiting in its memory (right)",
)


def recording(
    ticks: pd.DataFrame, misses_per_s: pd.DataFrame, gaps: pd.DataFrame, *, title: str, seconds: float | None
) -> go.Figure:
    """Draw the progress of a recording.

    Parameters
    ----------
    ticks : pandas.DataFrame, one row per moment, indexed by ``elapsed_s``
        ``span_s`` : seconds since the row before.
        ``hit_rate``, ``hit_rate_so_far`` : 0 to 1, over that span and since the start; NaN without reads.
        ``ops_per_s``, ``stream_bytes_per_s``, ``buffer_bytes`` : see :class:`coldcache.record.recorder.Progress`.
    misses_per_s : pandas.DataFrame, the same index, one column per key state
    gaps : pandas.DataFrame, one row per gap
        ``start_s``, ``end_s``, ``reason``.
    title : str
        What is going on.
    seconds : float or None
        How long it is to take; the time axis spans it from the start on.
    """
    figure = make_subplots(
        rows=4, cols=1, shared_xaxes=True, vertical_spacing=0.085, subplot_titles=_PANELS, row_heights=[3, 2, 3, 2],
        specs=[[{}], [{}], [{}], [{"secondary_y": True}]],
    )  # fmt: skip
    x = ticks.index
    _line(figure, 1, x, ticks["hit_rate"], "hit rate", GOOD, ".1%", fill="rgba(26,127,75,0.10)")
    _line(figure, 1, x, ticks["hit_rate_so_far"], "since the start", MUTED, ".1%", dash="dot")
    _line(figure, 2, x, ticks["ops_per_s"], "commands/s", ACCENT, ",.0f", fill="rgba(31,111,235,0.08)")
    for state in misses_per_s.columns:
        figure.add_trace(
            go.Bar(
                x=x,
                y=misses_per_s[state],
                width=ticks["span_s"],
                offset=-ticks["span_s"],  # a bar stands over the time that it counts, which ends at x
                name=f"missed: {safe(state)}",
                marker={"color": _STATE_COLOURS.get(state, NEUTRAL), "line": {"width": 0}},
                hovertemplate="%{y:,.0f}/s",
            ),
            row=3,
            col=1,
        )
    _line(figure, 4, x, ticks["stream_bytes_per_s"], "stream", SECOND, ".3~s", unit="B/s")
    _line(figure, 4, x, ticks["buffer_bytes"], "waiting", THIRD, ".3~s", unit="B", dash="dot", secondary=True)
    # One axis for all: only then does the hover box list every panel.
    figure.update_traces(xaxis="x4")
    for panel, empty, words in (
        ("", ticks["hit_rate_so_far"].isna().all(), "no reads yet"),
        ("3", misses_per_s.empty, "no misses seen yet"),
    ):
        if empty:
            # In paper units: plotly does not know the axis of a panel without traces.
            bottom, top = figure.layout[f"yaxis{panel}"].domain
            figure.add_annotation(
                xref="paper", yref="paper", x=0.5, y=(bottom + top) / 2, text=words, showarrow=False, font={"color": MUTED}
            )
    for gap in gaps.to_dict("records"):
        figure.add_shape(
            type="rect", xref="x4", yref="paper", x0=gap["start_s"], x1=gap["end_s"], y0=0, y1=1, layer="below",
            fillcolor=NEUTRAL, opacity=0.25, line_width=0,
        )  # fmt: skip
        figure.add_annotation(
            xref="x4", yref="paper", x=gap["start_s"], y=1, yanchor="top", xanchor="left", showarrow=False,
            text=f"not recorded: {safe(gap['reason'])}", font={"size": 11, "color": MUTED},
        )  # fmt: skip
    figure.update_annotations(selector={"font": {"size": 16}}, x=0, xanchor="left", font={"size": 13})
    figure.update_yaxes(rangemode="tozero", nticks=5)
    figure.update_yaxes(row=1, col=1, tickformat=".0%", range=[-0.02, 1.04], tickvals=[0, 0.5, 1])
    figure.update_yaxes(
        row=4, col=1, tickformat="~s", ticksuffix="B/s", secondary_y=False, **_from_zero(ticks["stream_bytes_per_s"])
    )
    figure.update_yaxes(
        row=4,
        col=1,
        tickformat="~s",
        ticksuffix="B",
        secondary_y=True,
        showgrid=False,
        tickmode="auto",
        **_from_zero(ticks["buffer_bytes"]),
    )
    end_s = max([seconds or 0.0, *x])
    figure.update_xaxes(
        row=4,
        col=1,
        title="seconds since the start",
        range=[0, end_s * 1.01] if end_s else None,
        unifiedhovertitle={"text": "%{x:.1f} s"},
    )
    figure.update_layout(
        title=safe(title),
        height=640,
        barmode="stack",
        hovermode="x unified",
        hoversubplots="axis",
        legend={"y": -0.11, "yanchor": "top"},
        margin={"t": 78, "b": 96, "r": 70},
    )
    return figure


def _from_zero(sizes: pd.Series) -> dict[str, object]:
    """Return an axis for byte counts: from 0, and at least a kilobyte, as an axis of zeros alone would show parts of a byte."""
    return {"range": [0, 1.15 * max([1000.0, *sizes])], "nticks": 4}


def _line(
    figure: go.Figure,
    row: int,
    x: pd.Index,
    y: pd.Series,
    name: str,
    colour: str,
    form: str,
    *,
    unit: str = "",
    dash: str = "solid",
    fill: str | None = None,
    secondary: bool = False,
) -> None:
    figure.add_trace(
        go.Scatter(
            x=x,
            y=y,
            name=name,
            mode="lines",
            line={"color": colour, "width": 2, "dash": dash},
            fill="tozeroy" if fill else None,
            fillcolor=fill,
            hovertemplate=f"%{{y:{form}}}{unit}",
        ),
        row=row,
        col=1,
        secondary_y=secondary if row == len(_PANELS) else None,
    )
