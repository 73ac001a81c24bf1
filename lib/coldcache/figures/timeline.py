"""The joined timeline: four panels, one clock, zoom and hover linked."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from coldcache.figures.theme import ACCENT, BAD, CAUSE_COLOURS, GOOD, INK, MUTED, NEUTRAL, SECOND, THIRD, safe
from coldcache.timeline import SERIES, Timeline

_PANELS = ("Hit rate", "Misses per second, by cause", "Redis memory", "Process memory")
_MB = 1e6


def timeline(joined: Timeline) -> go.Figure:
    """Draw a joined timeline.

    All traces share the bottom axis: only then does the hover box list every panel. Change
    points are dotted lines through all panels, gaps of the recording grey bands.
    """
    figure = make_subplots(
        rows=4, cols=1, shared_xaxes=True, vertical_spacing=0.07, subplot_titles=_PANELS, row_heights=[3, 3, 2, 2]
    )
    bins, x = joined.bins, joined.bins.index
    _line(figure, 1, x, bins["hit_rate"], "hit rate", GOOD, ".1%", fill="tozeroy")
    _line(figure, 1, x, bins["effective_hit_rate"], "effective hit rate", BAD, ".1%", dash="dot")
    for cause in joined.misses.columns:
        figure.add_trace(
            go.Bar(
                x=x,
                y=joined.misses[cause] / joined.bin_s,
                name=safe(cause),
                marker={"color": CAUSE_COLOURS.get(cause, SECOND), "line": {"width": 0}},
                hovertemplate="%{y:.0f}/s",
            ),
            row=2,
            col=1,
        )
    _line(figure, 3, x, bins["redis_bytes"] / _MB, "Redis used memory", ACCENT, ".2f", unit=" MB")
    _line(figure, 4, x, bins["rss_bytes"] / _MB, "process RSS", SECOND, ".1f", unit=" MB")
    _line(figure, 4, x, bins["heap_bytes"] / _MB, "process heap", THIRD, ".1f", unit=" MB")
    figure.update_traces(xaxis="x4")
    for gap in joined.gaps.to_dict("records"):
        figure.add_shape(
            type="rect", xref="x4", yref="paper", x0=gap["start"], x1=gap["end"], y0=0, y1=1, layer="below",
            fillcolor=NEUTRAL, opacity=0.25, line_width=0,
        )  # fmt: skip
        figure.add_annotation(
            xref="x4", yref="paper", x=gap["start"], y=1, yanchor="top", xanchor="left", showarrow=False,
            text=f"not recorded: {safe(gap['reason'])}", font={"size": 11, "color": MUTED},
        )  # fmt: skip
    for change in joined.changes.to_dict("records"):
        figure.add_shape(
            type="line", xref="x4", yref="paper", x0=change["t"], x1=change["t"], y0=0, y1=1,
            line={"color": INK, "width": 1.5, "dash": "dot"},
        )  # fmt: skip
        figure.add_annotation(
            xref="x4", yref="paper", x=change["t"], y=0, yanchor="bottom", xanchor="left", showarrow=False,
            text=f"{SERIES[change['series']]} changes", font={"size": 11, "color": MUTED},
        )  # fmt: skip
    figure.update_annotations(selector={"font": {"size": 16}}, x=0, xanchor="left", font={"size": 13})
    figure.update_yaxes(rangemode="tozero")
    figure.update_yaxes(row=1, col=1, tickformat=".0%", range=[0, 1.03])
    figure.update_yaxes(row=2, col=1, title="misses/s")
    figure.update_yaxes(row=3, col=1, title="MB")
    figure.update_yaxes(row=4, col=1, title="MB")
    figure.update_xaxes(row=4, col=1, title="time (UTC)")
    figure.update_layout(
        title=f"What happened, second by second ({joined.bin_s:g} s bins)",
        height=760,
        barmode="stack",
        bargap=0.1,
        hovermode="x unified",
        hoversubplots="axis",
        legend={"y": -0.1, "yanchor": "top"},
        margin={"t": 70, "b": 90},
    )
    return figure


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
) -> None:
    if y.isna().all():
        return
    figure.add_trace(
        go.Scatter(
            x=x,
            y=y,
            name=name,
            mode="lines",
            line={"color": colour, "width": 2, "dash": dash},
            fill=fill,
            fillcolor="rgba(26,127,75,0.10)" if fill else None,
            connectgaps=True,
            hovertemplate=f"%{{y:{form}}}{unit}",
        ),
        row=row,
        col=1,
    )
