"""How many keys each family has and how they are read, and how unevenly reads fall on keys."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from coldcache.figures.theme import ACCENT, GOOD, MUTED, NEUTRAL, note, safe

_ROW_PX = 34
_MOST_FAMILIES = 25


def key_families(families: pd.DataFrame) -> go.Figure:
    """Draw each family's keys, how many were read only once, and the bytes stored beside (``KeyUsage.families``)."""
    if families.empty:
        return note("There are no keys in this recording.")
    shown = families.head(_MOST_FAMILIES)
    names = [safe(name) for name in shown["family"]]
    figure = make_subplots(
        rows=1, cols=2, shared_yaxes=True, horizontal_spacing=0.04, column_widths=[0.62, 0.38],
        subplot_titles=("keys, and how many of those read were read only once", "values stored, MB"),
    )  # fmt: skip
    figure.add_bar(
        x=shown["keys"], y=names, orientation="h", marker={"color": ACCENT}, showlegend=False,
        text=[
            f"{keys:,} keys, " + ("never read" if pd.isna(share) else f"{share:.0%} read once")
            for keys, share in zip(shown["keys"], shown["one_hit_share"], strict=True)
        ],
        textposition="auto", cliponaxis=False, hovertemplate="%{y}: %{x:,} keys<extra></extra>", row=1, col=1,
    )  # fmt: skip
    figure.add_bar(
        x=shown["stored_bytes"] / 1e6, y=names, orientation="h", marker={"color": NEUTRAL}, showlegend=False,
        hovertemplate="%{y}: %{x:,.2f} MB<extra></extra>", row=1, col=2,
    )  # fmt: skip
    figure.update_annotations(font={"size": 12, "color": MUTED})
    figure.update_layout(
        title="How many keys, and are they read again?",
        height=150 + _ROW_PX * max(2, len(shown)),
        yaxis={"autorange": "reversed"},
        margin={"r": 40},
    )
    return figure


def concentration(curve: pd.DataFrame) -> go.Figure:
    """Draw which share of the reads the most-read keys get (``KeyUsage.concentration``)."""
    if curve.empty:
        return note("There are no reads in this recording.")
    figure = go.Figure(
        [
            go.Scatter(
                x=curve["keys_share"], y=curve["reads_share"], mode="lines", line={"color": GOOD, "width": 3}, showlegend=False,
                hovertemplate="the most-read %{x:.0%} of the keys: %{y:.1%} of the reads<extra></extra>",
            ),
            go.Scatter(
                x=[0, 1], y=[0, 1], mode="lines", line={"color": NEUTRAL, "dash": "dot", "width": 1},
                hoverinfo="skip", showlegend=False,
            ),
        ]
    )  # fmt: skip
    figure.add_annotation(x=0.6, y=0.55, text="if all keys were read alike", showarrow=False, font={"color": MUTED, "size": 12})
    figure.update_layout(
        title="A few keys get most of the reads, or do they?",
        height=340,
        xaxis={"title": "keys, the most-read first", "tickformat": ".0%", "range": [0, 1]},
        yaxis={"title": "of the reads", "tickformat": ".0%", "range": [0, 1.02]},
    )
    return figure
