"""What a log's lines mean only after those before them: their numbers, transactions, and clocks that were set.

A batch is placed when its turn comes, which is quick, and completed by whichever thread writes it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from coldcache import schema
from coldcache.sources.arrays import address, column, labels, numbers, texts
from coldcache.sources.log import Batch, kernel

# A step back by more than this is no jitter between the lines of a pipeline: the clock was set.
CLOCK_STEP_US = 1_000_000
# A log whose clock is set more often than this has lines out of order, or times that mean nothing.
MOST_CLOCK_STEPS = 100
_VERBS = {"MULTI": 1, "EXEC": 2, "DISCARD": 2}
_FROM_EVENTS = ("outcome", "outcome_basis", "key_state")  # what only key events, or inference, can tell


@dataclass(slots=True)
class Epoch:
    """An uninterrupted stretch of a log: between its times, µs since the epoch, the clock was not set back."""

    number: int
    node: str
    start_us: int
    end_us: int
    stepped_us: int = 0  # by how much the clock was set before it; 0 where it was not


@dataclass(frozen=True, slots=True, eq=False)
class Placed:
    """A batch and what its place in the log adds to it.

    accesses : rows without these
    first_seq : number of the block's first line in the case
    node : whose log it is
    epochs : epoch of each row, or of all
    in_multi : which rows ran inside MULTI … EXEC; None: none of them
    """

    accesses: pa.Table
    first_seq: int
    node: str
    epochs: npt.NDArray[np.int32] | int
    in_multi: npt.NDArray[np.bool_] | None

    def complete(self) -> pa.Table:
        """Return the rows with all columns of ``schema.ACCESSES``; ``seq`` counts from the case's beginning."""
        columns = {name: self.accesses.column(name).chunk(0) for name in self.accesses.column_names}
        rows = len(self.accesses)
        inside = np.zeros(rows, np.bool_) if self.in_multi is None else self.in_multi
        columns |= {
            "seq": column(numbers(columns["seq"]) + self.first_seq),
            "epoch": column(np.full(rows, self.epochs, np.int32) if isinstance(self.epochs, int) else self.epochs),
            "node": labels(np.zeros(rows, np.int32), texts([self.node])),
            "in_multi": column(inside),
        }
        declared = schema.ACCESSES.arrow()
        columns |= {name: pa.nulls(rows, declared.field(name).type) for name in _FROM_EVENTS}
        return pa.table({name: columns[name] for name in declared.names})


class LineOrder:
    """Places the batches of one log, which must come in order.

    Attributes
    ----------
    epochs : list of Epoch
        Those seen so far.
    next_seq : int
        The number that the next line gets; it never repeats in a case.
    steps : int
        How often the clock was set back; not counted beyond `MOST_CLOCK_STEPS`.
    """

    def __init__(self, node: str, first_epoch: int, first_seq: int) -> None:
        """Begin a log of this node; its epochs and lines get numbers from these on."""
        self._node = node
        self._first_epoch = first_epoch
        self.next_seq = first_seq
        self.epochs: list[Epoch] = []
        self._open: frozenset[str] = frozenset()
        self.steps = 0

    def place(self, batch: Batch) -> Placed:
        """Return a batch in its place. Call `advance` behind the last batch of a block, whose lines are numbered from 0."""
        client, command = (batch.accesses.column(name).chunk(0) for name in ("client", "command"))
        return Placed(batch.accesses, self.next_seq, self._node, self._epochs_of(batch), self._in_multi(client, command))

    def advance(self, lines: int) -> None:
        """Go on behind so many lines."""
        self.next_seq += lines

    def _epochs_of(self, batch: Batch) -> npt.NDArray[np.int32] | int:
        """Return the epoch of each row, or of all; a clock that was set back begins a new one."""
        stamps = numbers(batch.accesses.column("t").chunk(0))
        if not self.epochs:
            self._begin(int(stamps[0]))
        now = self.epochs[-1]
        if max(batch.back_us, now.end_us - batch.least_us) <= CLOCK_STEP_US:
            now.end_us = max(now.end_us, batch.most_us)
            return now.number
        return self._followed(stamps)

    def _followed(self, stamps: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
        numbers = np.empty(len(stamps), np.int32)
        row = 0
        while row < len(stamps):
            now = self.epochs[-1]
            highest = np.maximum.accumulate(np.maximum(stamps[row:], now.end_us))
            back = highest - stamps[row:]
            steps = np.flatnonzero(back > CLOCK_STEP_US)
            until = row + int(steps[0]) if len(steps) and self.steps < MOST_CLOCK_STEPS else len(stamps)
            numbers[row:until] = now.number
            if until > row:
                now.end_us = int(highest[until - row - 1])
            if until < len(stamps):
                self.steps += 1
                self._begin(int(stamps[until]), -int(back[until - row]))
            row = until
        return numbers

    def _begin(self, stamp_us: int, stepped_us: int = 0) -> None:
        self.epochs.append(Epoch(self._first_epoch + len(self.epochs), self._node, stamp_us, stamp_us, stepped_us))

    def _in_multi(self, clients: pa.DictionaryArray, commands: pa.DictionaryArray) -> npt.NDArray[np.bool_] | None:
        verbs = np.array([_VERBS.get(name, 0) for name in commands.dictionary.to_pylist()], np.uint8)
        if not self._open and not verbs.any():
            return None
        verb = verbs[numbers(commands.indices)]
        inside = np.zeros(len(verb), np.bool_)
        names = clients.dictionary.to_pylist()
        open_now = np.array([name in self._open for name in names], np.bool_)
        client = numbers(clients.indices)
        kernel()["in_transactions"](address(client), address(verb), len(verb), address(open_now), address(inside))
        self._open = (self._open - set(names)) | {name for name, is_open in zip(names, open_now, strict=True) if is_open}
        return inside
