"""Memory of the process: survivors by age, and what RSS holds beyond the heap."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from coldcache.figures.theme import ACCENT, SECOND, THIRD, note, safe
from coldcache.memory.survivors import TENTHS, Survivors

_MB = 1e6
_MOST_SITES = 6


def survivors_by_age(survivors: Survivors) -> go.Figure:
    """Draw the bytes born in each tenth of the recording that are still alive at its end, by line."""
    if not survivors.recorded:
        return note("No heap profile in this case. Start the process under memray to see what it keeps.")
    if not survivors.sites:
        return note(f"No line of the process keeps growing: {survivors.size_bytes / 1024:,.0f} KiB survive in all.")
    step = survivors.seconds / TENTHS
    x = [f"{number * step:.0f}–{(number + 1) * step:.0f} s" for number in range(TENTHS)]
    figure = go.Figure(
        [
            go.Bar(
                x=x,
                y=[size / _MB for size in site.tenths],
                name=safe(site.site),
                customdata=[share * 100 for share in site.survival],
                hovertemplate="%{y:.2f} MB survive, %{customdata:.0f} % of those born",
            )
            for site in survivors.sites[:_MOST_SITES]
        ]
    )
    figure.update_layout(
        title="Still alive at the end, by time of birth: a leak keeps every age, a cache only the newest",
        barmode="stack",
        height=380,
        xaxis={"title": "born in this part of the recording"},
        yaxis={"title": "MB surviving"},
        showlegend=True,
        hovermode="x unified",
    )
    return figure


def memory_gap(bins: pd.DataFrame) -> go.Figure:
    """Draw RSS and heap of a timeline's bins: growth of RSS that the heap does not show is not the code's."""
    if bins["rss_bytes"].isna().all():
        return note("The process's memory was not recorded. Name it with: coldcache record --pid PID")
    figure = go.Figure(
        [
            go.Scatter(
                x=bins.index, y=bins[column] / _MB, name=name, mode="lines", line={"width": 2, "color": colour},
                connectgaps=True, hovertemplate="%{y:.1f} MB",
            )
            for column, name, colour in (
                ("rss_bytes", "RSS", SECOND),
                ("heap_bytes", "heap allocated in the recording", THIRD),
                ("redis_bytes", "Redis used memory", ACCENT),
            )
            if not bins[column].isna().all()
        ]
    )  # fmt: skip
    figure.update_layout(
        title="RSS, heap and Redis",
        height=340,
        yaxis={"title": "MB", "rangemode": "tozero"},
        xaxis={"title": "time (UTC)"},
        hovermode="x unified",
    )
    return figure
