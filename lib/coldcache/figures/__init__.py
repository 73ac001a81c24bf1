"""Plotly figures, one theme. Each function takes frames or results and returns a Figure: it never
computes, groups or filters, and never shows.
"""

from __future__ import annotations

from coldcache.figures.keys import concentration, key_families
from coldcache.figures.memory import memory_gap, survivors_by_age
from coldcache.figures.misses import families, misses_by_cause
from coldcache.figures.recording import recording
from coldcache.figures.theme import CAUSE_COLOURS, PLOT_CONFIG, note
from coldcache.figures.timeline import timeline

__all__ = [
    "CAUSE_COLOURS",
    "PLOT_CONFIG",
    "concentration",
    "families",
    "key_families",
    "memory_gap",
    "misses_by_cause",
    "note",
    "recording",
    "survivors_by_age",
    "timeline",
]
