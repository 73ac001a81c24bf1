"""One order for rows of several streams: of time between them, of the stream within one."""

from __future__ import annotations

import numpy as np
import pandas as pd


def positions(*frames: pd.DataFrame) -> list[np.ndarray]:
    """Place the rows of several frames in one order.

    Parameters
    ----------
    frames : pandas.DataFrame
        ``epoch``, ``seq``, ``t``; any index.

    Returns
    -------
    list of arrays of int, one per frame
        The place of each row. Rows of one ``seq`` have one place. Within an epoch ``seq`` decides,
        for the server's clock may step back.
    """
    rows = pd.concat([frame[["epoch", "seq", "t"]] for frame in frames], ignore_index=True).sort_values("seq")
    rows["t"] = rows.groupby("epoch")["t"].cummax()
    rows = rows.sort_values(["t", "seq"])
    place = rows["seq"].ne(rows["seq"].shift()).cumsum().sort_index().to_numpy()
    return np.split(place, np.cumsum([len(frame) for frame in frames])[:-1])
