"""Results that show themselves, in a terminal, in a notebook and in nbval alike; always escaped."""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd


_MOST_ROWS = 50


class SelfShowing:
    """A result whose ``str`` is its short report: the same text in a notebook, escaped as HTML."""

    __slots__ = ()

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(str(self))

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ShownTable(SelfShowing):
    """A frame that shows itself; `frame` keeps full precision."""

    frame: pd.DataFrame
    digits: int = 3

    def _head(self) -> pd.DataFrame:
        """Return the rows shown, as text: whole numbers with separators, decimals without needless zeros."""
        return self.frame.head(_MOST_ROWS).map(self._cell)

    def _cell(self, value: object) -> object:
        if isinstance(value, float | np.floating):
            return "–" if np.isnan(value) else f"{value:,.{self.digits}f}".rstrip("0").rstrip(".")
        return f"{value:,}" if isinstance(value, int | np.integer) and not isinstance(value, bool) else value

    def _rest(self) -> str:
        total = len(self.frame)
        return f"{min(_MOST_ROWS, total)} of {total} rows" if total > _MOST_ROWS else ""

    def __str__(self) -> str:
        import pandas as pd

        with pd.option_context("display.max_colwidth", None, "display.width", 200):
            text = self._head().to_string(index=False, na_rep="–") if len(self.frame) else "no rows"
        return "\n".join(filter(None, [text, self._rest()]))

    def __repr__(self) -> str:
        return f"<ShownTable {len(self.frame)} rows>"

    def _repr_html_(self) -> str:
        if self.frame.empty:
            return "<p>no rows</p>"
        import pandas as pd

        with pd.option_context("display.max_colwidth", None):
            table = self._head().to_html(index=False, na_rep="–", border=0, justify="left")  # escapes its cells
        return f"{table}<p>{self._rest()}</p>" if self._rest() else table


def shown(frame: pd.DataFrame, *, digits: int = 3) -> ShownTable:
    """Return a frame as a table to be read: at most 50 rows, saying so, and `digits` decimals."""
    return ShownTable(frame, digits)
