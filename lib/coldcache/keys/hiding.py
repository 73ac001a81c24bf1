"""Keys with their variable parts hidden: families stay legible, the ids in them do not.

Every token in a variable position becomes a name of ten hex digits, a keyed BLAKE2b whose key
exists in memory only, while the tables are made. The same token gets the same name everywhere in
a recording, so ids join across families as before; between recordings nothing joins. A name
looks like an identifier to :func:`coldcache.keys.families.key_families`, so families stay the
same.

A fixed token is kept only when some family of at least three distinct keys has it: in a short
recording `user:alice` is a family of its own. Other fixed tokens are hidden as well, and so is
any that looks like a part of an address, a number of somebody, or binary.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Iterable

import pandas as pd

from coldcache.keys.families import SEPARATORS, VARIABLE, VERSIONS, key_families, split_keys

_LEAST_KEYS = 3  # distinct keys of a family before its fixed tokens are kept
_NAME_DIGITS = 10
_ANY_ID = "0a1b2c3d4e"  # stands for any name where only families matter
# E-mail and percent-encoded text, escaped bytes, and numbers of four digits (user1234), but for a version (v20260102).
_NEVER_KEPT = re.compile(r"[@%]|\\[xuU]|^(?!v\d+$).*\d{4}", re.DOTALL)


class HiddenKeys:
    """The hidden forms of all keys of one recording.

    Parameters
    ----------
    keys : iterable of str
        All of them, in Redis's printable escape: what is kept depends on all.
    """

    def __init__(self, keys: Iterable[str]) -> None:
        self._names = _Names(secrets.token_bytes(32))
        self._forms = _hidden_forms(pd.Series(list(keys), dtype="str"), self._names)

    def of(self, keys: pd.Series) -> pd.Series:
        """Return the hidden form of every key, null where there is none; two keys never share one.

        Raises
        ------
        KeyError
            A key was not among those given at first: a bug of the caller. Nothing is passed on in clear.
        """
        codes, distinct = pd.factorize(keys)
        forms = [*(self._forms[key] for key in distinct), None]  # code -1, a null, is the last
        return pd.Series(pd.array(forms, dtype="str").take(codes), index=keys.index, name=keys.name)


class _Names:
    """Names of hidden tokens: the same for the same token, different for different ones."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._of: dict[str, str] = {}
        self.given: set[str] = set()

    def of(self, token: str) -> str:
        if (name := self._of.get(token)) is None:
            digest = hashlib.blake2b(token.encode("utf-8", "backslashreplace"), key=self._secret).hexdigest()
            windows = (digest[at : at + _NAME_DIGITS] for at in range(len(digest) - _NAME_DIGITS))
            # Letters alone would be a word (`deadbeef`), and digits alone might take a dash before them for a sign;
            # 2^40 names are few for a million tokens.
            name = next(w for w in windows if not (w.isalpha() or w.isdigit() or w in self.given))
            self._of[token] = name
            self.given.add(name)
        return name


def _hidden_forms(keys: pd.Series, names: _Names) -> dict[str, str]:
    families = key_families(keys)
    templates = _templates(families)
    forms: dict[str, str] = {}
    distinct = families.index.to_list()
    for key, family, parts in zip(distinct, families, split_keys(distinct), strict=True):
        template = templates[family]
        for at in range(0, len(parts), 2):
            if template[at] == VARIABLE:
                parts[at] = names.of(parts[at])
            elif template[at] in VERSIONS:
                parts[at] = parts[at][0] + names.of(parts[at][1:])
        forms[key] = "".join(parts)
    return forms


def _templates(families: pd.Series) -> dict[str, list[str]]:
    """Return the template to hide by of every family, split; variable where its token is not kept.

    `families` has the family of every distinct key.
    """
    sizes = families.value_counts()
    kept = _kept_tokens(sizes)
    templates = {}
    for family in sizes.index:
        templates[family] = SEPARATORS.split(family)
        _hide(templates[family], [VARIABLE if token and token not in kept else token for token in templates[family][::2]])
    # Families are looked for among keys with the same first token. Where a fixed one was hidden, keys
    # come together that were apart, and more positions are variable among the hidden keys.
    settled = False
    while not settled:
        shapes = ["".join(_ANY_ID if part == VARIABLE else part for part in template) for template in templates.values()]
        found = key_families(pd.Series(shapes, dtype="str")).to_dict()
        changed = [_hide(t, SEPARATORS.split(found[shape])[::2]) for t, shape in zip(templates.values(), shapes, strict=True)]
        settled = not any(changed)
    return templates


def _kept_tokens(sizes: pd.Series) -> frozenset[str]:
    """Return the tokens that may be kept, from the number of distinct keys of every family."""
    tokens = {token for family in sizes.index[sizes >= _LEAST_KEYS] for token in SEPARATORS.split(family)[::2]}
    return frozenset(token for token in tokens if not _NEVER_KEPT.search(token))


def _hide(template: list[str], tokens: list[str]) -> bool:
    """Make a template's tokens variable where `tokens` has a star; return whether one was not before."""
    changed = [at for at, token in enumerate(tokens) if token == VARIABLE and template[2 * at] != VARIABLE]
    for at in changed:
        template[2 * at] = VARIABLE
    return bool(changed)
