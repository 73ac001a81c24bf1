"""The first pass: what the keys of every part look like, and the families of them all."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from coldcache.keys.families import Families, Looks, bytes_of, looks_of, templates_of, texts_of
from coldcache.keys.numbering import numbers_and_first
from coldcache.shards.scratch import Scratch
from coldcache.shards.shard import NONE
from coldcache.shards.source import Source, whole
from coldcache.shards.workers import Workers

_Ints = npt.NDArray[np.int64]
_Hashes = npt.NDArray[np.uint64]


class FamiliesOfPart(NamedTuple):
    """Of each different template in a part: its family, and the hash of its further stars; see `Families`."""

    code: npt.NDArray[np.int32]
    further: _Hashes


def survey(
    case: Source, scratch: Scratch, workers: Workers, secret: _Hashes, parts: Sequence[str]
) -> tuple[Families, list[FamiliesOfPart]]:  # fmt: skip
    """Return the families of all keys, and those of the templates of each part.

    What the keys look like is put under :func:`looks_in`, for the second pass.
    """
    surveyed = workers.map("reading the keys", partial(_survey, case, scratch, secret), list(enumerate(parts)))
    numbers, hashes, first = numbers_and_first(np.concatenate(surveyed))
    starts = np.cumsum([0, *map(len, surveyed)])
    # Of templates that many parts have, the first gives the text: `first` is in order.
    by_part = np.split(first, np.searchsorted(first, starts[1:-1]))
    wanted = [(part, places - start) for part, (places, start) in enumerate(zip(by_part, starts, strict=False)) if len(places)]
    texts = workers.map("reading the keys", partial(_texts, scratch), wanted)
    scratch.drop(*map(_texts_in, range(len(parts))))
    families = Families.of_templates(hashes, pa.concat_arrays([pa.array([], pa.large_string()), *texts]), secret)
    of_parts = [numbers[start:end] for start, end in pairwise(starts)]
    return families, [FamiliesOfPart(families.code[own], families.further[own]) for own in of_parts]


def looks_in(part: int) -> str:
    """Return under which name the looks of a part's keys lie in the scratch: ``key``, ``ids`` and ``template``, a row each.

    The first two are those of `Looks`. `template` is the place in `FamiliesOfPart`, int32, -1 where there is no key.
    """
    return f"looks-{part}"


def _texts_in(part: int) -> str:
    """Return under which name the texts of a part's templates lie in the scratch."""
    return f"texts-{part}"


def _survey(case: Source, scratch: Scratch, secret: _Hashes, item: tuple[int, str]) -> _Hashes:
    """Look at the keys of a part; return the hashes of their templates, whose texts are put beside."""
    number, part = item
    keys = whole(case.part(part, ["key"])["key"])
    looks = looks_of(keys, secret)
    if keys.null_count:
        named = np.flatnonzero(keys.is_valid().to_numpy(zero_copy_only=False))
        template = np.full(len(keys), NONE, np.int32)
        looks_named = Looks(looks.key[named], looks.template[named], looks.ids[named])
        template[named], hashes, templates = templates_of(keys.drop_null(), looks_named)
    else:
        template, hashes, templates = templates_of(keys, looks)
    scratch.put(looks_in(number), {"key": looks.key, "ids": looks.ids, "template": template})
    bounds, content = bytes_of(templates)
    scratch.put(_texts_in(number), {"byte": content}, bounds)
    return hashes


def _texts(scratch: Scratch, item: tuple[int, _Ints]) -> pa.Array:
    """Return the texts of some templates of a part."""
    part, places = item
    columns, bounds = scratch.whole(_texts_in(part))
    return texts_of(bounds, columns["byte"]).take(pa.array(places))
