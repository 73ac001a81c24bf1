"""Misses by cause, and hit rate by family."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from coldcache.figures.theme import CAUSE_COLOURS, GOOD, GRID, MUTED, NEUTRAL, SECOND, UNUSED, note, safe

_ROW_PX = 34


def misses_by_cause(misses: pd.DataFrame) -> go.Figure:
    """Draw how many misses each cause has: a diagnosis's ``misses`` (``cause``, ``count``, ``share``)."""
    if misses.empty:
        return note("There are no misses in this recording.")
    figure = go.Figure(
        go.Bar(
            x=misses["count"],
            y=[safe(cause) for cause in misses["cause"]],
            orientation="h",
            marker={"color": [CAUSE_COLOURS.get(cause, SECOND) for cause in misses["cause"]]},
            text=[f"{count:,} ({share:.1%})" for count, share in zip(misses["count"], misses["share"], strict=True)],
            textposition="auto",
            cliponaxis=False,
            hovertemplate="%{y}: %{x:,} misses<extra></extra>",
        )
    )
    figure.update_layout(
        title="Every miss has one cause",
        height=120 + _ROW_PX * max(2, len(misses)),
        xaxis={"title": "misses"},
        yaxis={"autorange": "reversed"},
        margin={"r": 110},
    )
    return figure


def families(by_family: pd.DataFrame) -> go.Figure:
    """Draw each family's reads, split into used hits, unused hits and misses (``Ledger.by_family``).

    Where it is not known which hits were used, hits and misses; where outcomes are not known, the recorded reads alone.
    Of inferred outcomes the bounds stand beside the rate.
    """
    if by_family.empty:
        return note("There are no reads in this recording.")
    names = [safe(name) for name in by_family["family"]]
    reads = by_family["reads"]
    rated = not by_family["hit_rate"].isna().all()
    parts = [
        ("hit and used", by_family["effective_hit_rate"] * reads, GOOD),
        ("hit, value not used", (by_family["hit_rate"] - by_family["effective_hit_rate"]) * reads, UNUSED),
        ("miss", (1 - by_family["hit_rate"]) * reads, NEUTRAL),
    ]
    if by_family["effective_hit_rate"].isna().all():
        parts = [("hit", by_family["hit_rate"] * reads, GOOD), parts[2]]
    if not rated:
        parts = [("recorded, hits not known", reads, NEUTRAL)]
    figure = go.Figure(
        [
            go.Bar(
                x=counts, y=names, name=name, orientation="h", marker={"color": colour, "line": {"color": GRID, "width": 0}},
                hovertemplate="%{x:,.0f} reads",
            )
            for name, counts, colour in parts
        ]
    )  # fmt: skip
    bounds = [""] * len(names)
    if "hit_rate_low" in by_family:
        edges = zip(by_family["hit_rate_low"], by_family["hit_rate_high"], strict=True)
        bounds = [f", {low:.0%} to {high:.0%} possible" for low, high in edges]
    for name, rate, count, between in zip(names, by_family["hit_rate"], reads, bounds, strict=True):
        figure.add_annotation(
            x=count,
            y=name,
            text=(f" {rate:.1%} hit" if rated else f" {count:,}") + between,
            xanchor="left",
            showarrow=False,
            font={"color": MUTED, "size": 12},
        )
    figure.update_layout(
        title="What the reads of each key family got" if rated else "What was recorded of each key family's reads",
        barmode="stack",
        height=150 + _ROW_PX * max(2, len(by_family)),
        xaxis={"title": "reads"},
        yaxis={"autorange": "reversed"},
        hovermode="y unified",
        margin={"r": 90 if not any(bounds) else 220},
    )
    return figure
