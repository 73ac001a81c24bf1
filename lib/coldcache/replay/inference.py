"""What each read of a log of commands got, hit or miss, where no key events tell: inferred, never exact.

Four kinds of evidence, in this order. **State**: every key is followed through its commands, times to
live and flushes (`coldcache.replay.state_kernel`); many reads are certain from that alone. **Fills**: a
write soon after a read of its key speaks for a miss, as far as the key family's certain misses are
written again (p(fill)) and its certain hits are not. **Order**: between two writes that could create a key, hits
come first and misses after, for what is gone stays gone; so the reads of a key form chains with one
turning point each, estimated by the forward-backward algorithm (Rabiner, Proc. IEEE 77, 1989), its
parameters by expectation-maximisation, for each family. **INFO**: between two samples, hits and misses
are known in sum. One shift of the odds makes the estimates agree with it over the whole log, a small least
squares within the families' bounds (Deville & Särndal, JASA 87, 1992) in every window.

The bounds rest on state and INFO alone. Three steps, so that a large log can be followed in parts: :func:`access_rows` (a
frame to arrays), :func:`trace_reads` (any part that holds all rows of its keys), :func:`settle` (all reads).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache

import numpy as np
import numpy.typing as npt
import pandas as pd

from coldcache.commands import STRING_WRITES, Form, Rule, rules
from coldcache.keys.families import key_families
from coldcache.replay import state_kernel as kernel
from coldcache.replay.fill_kernel import FILL_WINDOW_S
from coldcache.showing import SelfShowing

BASIS = "inferred"
HIT, MISS, NO_READ = 1, 0, -1
# What `Inference.key_state` numbers; the first is for what is not known, and for hits.
KEY_STATES = ("", "expired", "evicted", "deleted", "flushed", "never written")
# A command's time to live counts from its start, its line is stamped at its end: a key is judged only
# further than this from its deadline. Ten times a time slice of the scheduler, a thousand times a usual command.
SLACK_MS = 50.0
_ROUNDS = 12  # of expectation-maximisation; the estimates move by less than a thousandth after eight
_SAMPLE = 1_000_000  # reads from which parameters are estimated, whole chains of them
_MOST_CELLS = 2_000_000  # windows × families: beyond that, windows are joined
# What is taken for granted before a family's own reads speak, as if from `_WEIGHT` observations.
_NEVER_FILLED = 0.002  # share of absent keys that nobody ever fills
_FADE = 0.001  # chance that a key is evicted between two reads
_WEIGHT = 20
_LEAST_SHARE_WITH_TTL = 0.95  # of a family's writes, for its keys to be taken to expire
_TYPES = {name: number for number, name in enumerate(("", "string", "hash", "list", "set", "zset", "stream"))}
_FLAGS = {
    "NX": kernel.NX, "XX": kernel.XX, "GT": kernel.GT, "LT": kernel.LT,
    "KEEPTTL": kernel.KEEPTTL, "GET": kernel.GET, "PERSIST": kernel.PERSISTS,
}  # fmt: skip
_ABSOLUTE = frozenset({"EXAT", "PXAT", "EXPIREAT", "PEXPIREAT"})
_MS_FAR = 1 << 50  # milliseconds beyond which a time to live is as good as 35,000 years

# What commands do that their rule does not say; a target's effect stands behind the key's.
_EFFECTS = {
    "SET": kernel.STORE, "SETEX": kernel.STORE, "PSETEX": kernel.STORE, "MSET": kernel.STORE,
    "SETNX": kernel.STORE, "GETSET": kernel.STORE, "MSETNX": kernel.MAYBE_ADD,
    "EXPIRE": kernel.EXPIRE, "PEXPIRE": kernel.EXPIRE, "EXPIREAT": kernel.EXPIRE, "PEXPIREAT": kernel.EXPIRE,
    "PERSIST": kernel.PERSIST, "GETEX": kernel.GETEX, "GETDEL": kernel.GETDEL, "DEL": kernel.REMOVE, "UNLINK": kernel.REMOVE,
    "DELIFEQ": kernel.MAYBE_REMOVE, "DELEX": kernel.MAYBE_REMOVE, "MOVE": kernel.MAYBE_REMOVE,
    # Their value, options or time to live are not in the table of accesses.
    "RESTORE": kernel.FORGET, "RESTORE-ASKING": kernel.FORGET, "MSETEX": kernel.FORGET, "INCREX": kernel.FORGET,
    "HSETEX": kernel.FORGET,
    # Options may keep these from creating the key: ZADD XX, XADD NOMKSTREAM, BITFIELD GET, SETRANGE of "".
    "ZADD": kernel.MAYBE_ADD, "GEOADD": kernel.MAYBE_ADD, "XADD": kernel.MAYBE_ADD, "BITFIELD": kernel.MAYBE_ADD,
    "SETRANGE": kernel.MAYBE_ADD, "XGROUP CREATE": kernel.MAYBE_ADD,
    "FLUSHDB": kernel.FLUSH_DB, "FLUSHALL": kernel.FLUSH_NODE,
    "SWAPDB": kernel.FORGET_NODE, "MIGRATE": kernel.FORGET_NODE, "CLUSTER FLUSHSLOT": kernel.FORGET_NODE,
}  # fmt: skip
_PAIRS = {
    "RENAME": (kernel.RENAME_FROM, kernel.RENAME_TO),
    "RENAMENX": (kernel.RENAME_FROM, kernel.RENAME_TO),
    "COPY": (kernel.SOURCE, kernel.COPY_TO),
    "LMOVE": (kernel.TAKE, kernel.GIVE),
    "RPOPLPUSH": (kernel.TAKE, kernel.GIVE),
    "SMOVE": (kernel.TAKE, kernel.GIVE),
    "PFMERGE": (kernel.NOTHING, kernel.MAYBE_ADD),
    "GEOSEARCHSTORE": (kernel.NOTHING, kernel.FORGET),  # until 6.2 an empty result left the target
}
_OTHER_DATABASES = frozenset({"MOVE", "COPY"})
_FIXED_FLAGS = {"SETNX": kernel.NX, "GETSET": kernel.GET, "RENAMENX": kernel.ONLY_IF_NEW}

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Array = npt.NDArray[np.generic]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Windows:
    """The stretches of a log between INFO samples, and what INFO counted in each.

    Every epoch has one stretch before its first sample, one between any two, and one after its last; with no
    sample it is one stretch. In order of epoch and time.

    Attributes
    ----------
    epoch : int32
    after_seq : int64
        The stretch holds the rows of its epoch behind this position in the stream.
    start_us, end_us : int64
        Time of its samples, of the epoch's ends where there is none.
    hits, misses : int64
        By how much INFO's counters rose; -1 where they do not say.
    evicted : int64
        Evictions that may fall into it; ``state_kernel.UNBOUNDED`` where nobody counted.
    volatile_only : bool
        Only keys with a time to live are evicted.
    empty : bool
        The server held no key at its start.
    ends_us : int64
        End of its epoch.
    """

    epoch: npt.NDArray[np.int32]
    after_seq: Ints
    start_us: Ints
    end_us: Ints
    hits: Ints
    misses: Ints
    evicted: Ints
    volatile_only: Bools
    empty: Bools
    ends_us: Ints

    @property
    def anchored(self) -> Bools:
        """Which of them INFO's hits and misses are known of."""
        return (self.hits >= 0) & (self.misses >= 0)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AccessRows:
    """The rows of ``schema.ACCESSES`` as arrays, one element a row, grouped by epoch and in stream order.

    Rows may be added that stand for what a line did to other keys than it names.

    Attributes
    ----------
    place : int64
        Position of the row in the frame it comes from; -1 of an added row.
    t_us, seq, epoch : int64, int64, int32
        As in the frame; `t_us` since 1970.
    node, scope : int32
        Which server, which database of which server, from 0.
    key : int32
        Which key of which database, from 0; -1 without a key.
    family : int32
        Index in `families`; -1 without a key.
    effect, flags, type : uint8
        What the command does to the key, under which conditions, and of which type: see the kernel.
    deadline_us : int64
        When the time to live asked for ends; ``FOREVER`` without, ``REFUSED`` or ``PAST``.
    lookups, arg : uint8, int32
        As in the frame.
    answers : uint8
        Whether it is a write that may answer a read.
    window : int32
        Index in the `Windows`.
    families : tuple of str
    keys, scopes, nodes : int
        How many there are.
    """

    place: Ints
    t_us: Ints
    seq: Ints
    epoch: npt.NDArray[np.int32]
    node: npt.NDArray[np.int32]
    scope: npt.NDArray[np.int32]
    key: npt.NDArray[np.int32]
    family: npt.NDArray[np.int32]
    effect: npt.NDArray[np.uint8]
    flags: npt.NDArray[np.uint8]
    type: npt.NDArray[np.uint8]
    deadline_us: Ints
    lookups: npt.NDArray[np.uint8]
    arg: npt.NDArray[np.int32]
    answers: npt.NDArray[np.uint8]
    window: npt.NDArray[np.int32]
    families: tuple[str, ...]
    keys: int
    scopes: int
    nodes: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reads:
    """What the state of the keys says of every look-up; one element a row that counts one.

    Attributes
    ----------
    place : int64
        Position in the frame.
    t_us : int64
    family, window : int32
    lookups : uint8
        Its weight: how many look-ups INFO counts.
    seen : uint8
        ``CERTAIN_MISS``, ``CERTAIN_HIT``, ``AT_RISK`` (there, unless it was evicted) or ``OPEN``.
    kind, hint : uint8
        What its chain began with, and where it stands to the key's deadline.
    before : int32
        The read before it in its chain, -1 at the first.
    life : int32
        Which life of a key may have ended by a counted eviction; -1 without.
    state : uint8
        What had become of the key if it was missed, see `KEY_STATES`.
    gap_us : int64
        Until the write that answers it, -1 without.
    family_ttl_us : float64, one element a family
        The longest time to live it is written with; infinite if a part of it is written without.
    """

    place: Ints
    t_us: Ints
    family: npt.NDArray[np.int32]
    window: npt.NDArray[np.int32]
    lookups: npt.NDArray[np.uint8]
    seen: npt.NDArray[np.uint8]
    kind: npt.NDArray[np.uint8]
    hint: npt.NDArray[np.uint8]
    before: npt.NDArray[np.int32]
    life: npt.NDArray[np.int32]
    state: npt.NDArray[np.uint8]
    gap_us: Ints
    family_ttl_us: Floats


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Inference(SelfShowing):
    """What the reads of a log got, as far as it can be inferred. Never exact: see `basis`.

    Attributes
    ----------
    outcome : int8, one element a row of the frame
        1 hit, 0 miss, -1 no look-up. The likelier one, but so many of each as INFO counted.
    p_hit : float32, likewise
        Chance of a hit, 0 to 1; NaN without a look-up.
    certain : bool, likewise
        The state of the key alone decides it.
    key_state : int8, likewise
        What had become of the key of a miss: index in `KEY_STATES`, 0 where it is not known.
    families : pandas.DataFrame, one row per family with reads, most reads first
        ``family``; ``reads``: look-ups; ``hits``: estimate; ``hits_low``, ``hits_high``: bounds that hold, evictions
        included; ``hits_low_unevicted``: lower bound if no key was evicted that INFO did not count;
        ``p_fill``: share of its certain misses that a write answered, NaN without any.
    windows : pandas.DataFrame, one row per stretch between INFO samples that holds look-ups
        ``epoch``, ``start``, ``end`` (UTC); ``expected`` look-ups from the command table; ``counted`` by INFO,
        ``info_hits``: null where INFO does not say; ``hits``: estimate.
    reads : int
        Look-ups in the log.
    hits : float
        Estimate; `hits_low`, `hits_high`, `hits_low_unevicted` as for a family.
    expected, counted : int, int or None
        Look-ups of the command table and of INFO over the stretches between INFO's samples; more than a few
        per cent apart, lines are missing. None without INFO.
    caveats : tuple of str
    """

    outcome: npt.NDArray[np.int8]
    p_hit: npt.NDArray[np.float32]
    certain: Bools
    key_state: npt.NDArray[np.int8]
    families: pd.DataFrame
    windows: pd.DataFrame
    reads: int
    hits: float
    hits_low: int
    hits_high: int
    hits_low_unevicted: int
    expected: int
    counted: int | None
    caveats: tuple[str, ...] = ()

    @property
    def basis(self) -> str:
        """Always ``inferred``."""
        return BASIS

    @property
    def hit_rate(self) -> float | None:
        """Estimated hits / reads, 0 to 1; None without reads."""
        return self.hits / self.reads if self.reads else None

    @property
    def certain_share(self) -> float | None:
        """Share of the reads whose outcome is certain, 0 to 1; None without reads."""
        looked_up = self.outcome != NO_READ
        return float(self.certain[looked_up].mean()) if looked_up.any() else None

    def __str__(self) -> str:
        if not self.reads:
            return "Inferred outcomes: no reads"
        counted = "unknown" if self.counted is None else f"{self.counted:,}"
        lines = [
            f"Inferred outcomes of {self.reads:,} reads",
            f"  hit rate  {self.hit_rate:7.2%}",
            f"  between   {self.hits_low / self.reads:7.2%} and {self.hits_high / self.reads:.2%}",
            f"  certain   {self.certain_share:7.1%} of the reads",
            f"  look-ups  {self.expected:,} expected, INFO counted {counted}",
        ]
        return "\n".join(lines + [f"  caveat    {text}" for text in self.caveats])

    def __repr__(self) -> str:
        return f"<Inference of {self.reads} reads: {self.hits_low} to {self.hits_high} hits>"


# --- From frames to arrays ------------------------------------------------------------------------


def info_windows(accesses: pd.DataFrame, info: pd.DataFrame | None = None, config: pd.DataFrame | None = None) -> Windows:
    """Return the stretches between INFO samples.

    Parameters
    ----------
    accesses : pandas.DataFrame
        ``t``, ``seq``, ``epoch``, ``node`` of ``schema.ACCESSES``: the epochs and their ends are taken from it.
    info : pandas.DataFrame, optional
        ``schema.INFO``; two samples, before and after, do.
    config : pandas.DataFrame, optional
        ``schema.CONFIG``: with ``maxmemory`` 0 or the policy ``noeviction``, and no eviction counted, none took place.
    """
    stamps = accesses["t"].astype("int64")
    grouped = accesses.assign(us=stamps).groupby("epoch", sort=True)
    epochs = grouped.agg(start=("us", "min"), end=("us", "max"), seq=("seq", "min"))
    nodes = accesses.groupby("epoch", sort=True)["node"].first().astype("str")
    samples = _samples(info)
    parts = []
    for epoch, start, end, first_seq in epochs.itertuples(name=None):
        mine = samples[samples["epoch"].eq(epoch)]
        limit = _evictions_by_config(nodes[epoch], samples, config)
        parts.append(_stretches(int(epoch), int(start), int(end), int(first_seq), mine, limit))
    columns = [field.name for field in fields(Windows)]
    joined = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame({name: np.empty(0, np.int64) for name in columns})
    types = {"epoch": np.int32, "volatile_only": np.bool_, "empty": np.bool_}
    return Windows(**{name: joined[name].to_numpy(types.get(name, np.int64)) for name in columns})


def _samples(info: pd.DataFrame | None) -> pd.DataFrame:
    """Return INFO's counters in order; -1 where a counter is missing."""
    names = ["keyspace_hits", "keyspace_misses", "evicted_keys", "keys", "maxmemory"]
    if info is None or info.empty:
        return pd.DataFrame(columns=["epoch", "seq", "us", "node", "maxmemory_policy", *names])
    numbers = {
        name: pd.to_numeric(info[name], errors="coerce").fillna(-1).astype("int64") if name in info else -1 for name in names
    }
    policy = info["maxmemory_policy"].astype("str") if "maxmemory_policy" in info else ""
    frame = pd.DataFrame({"epoch": info["epoch"], "seq": info["seq"], "us": info["t"].astype("int64")})
    frame = frame.assign(node=info["node"].astype("str"), maxmemory_policy=policy, **numbers)
    return frame.sort_values(["epoch", "seq"], ignore_index=True)


def _evictions_by_config(node: str, samples: pd.DataFrame, config: pd.DataFrame | None) -> str:
    """Return which keys a server may evict: ``none``, ``volatile`` or ``all``; what is not known counts as all."""
    mine = samples[samples["node"].eq(node)]
    memory = set(mine["maxmemory"].astype("int64")) - {-1}
    policies = set(mine["maxmemory_policy"]) - {"", "nan"}
    if config is not None and len(config):
        settings = config[config["node"].astype("str").eq(node)].set_index("parameter")["value"]
        memory |= {int(value) for name, value in settings.items() if name == "maxmemory" and str(value).isdigit()}
        policies |= {str(value) for name, value in settings.items() if name == "maxmemory-policy"}
    counted = mine.groupby("epoch")["evicted_keys"].agg(lambda values: values.max() - values.min()).sum() if len(mine) else 0
    if not counted and (memory == {0} or policies == {"noeviction"}):
        return "none"
    return "volatile" if policies and all(policy.startswith("volatile") for policy in policies) else "all"


def _stretches(epoch: int, start: int, end: int, first_seq: int, samples: pd.DataFrame, limit: str) -> pd.DataFrame:
    """Return the stretches of one epoch as a frame with the columns of `Windows`."""
    times = np.concatenate([[start], samples["us"].to_numpy(np.int64), [end]])
    count = len(times) - 1
    outside = 0 if limit == "none" else kernel.UNBOUNDED
    rises = {}
    for name in ("keyspace_hits", "keyspace_misses", "evicted_keys"):
        values = samples[name].to_numpy(np.int64)
        inner = np.diff(values)
        # A counter that fell began again, one that is missing says nothing.
        inner[(inner < 0) | (values[1:] < 0) | (values[:-1] < 0)] = -1
        rises[name] = np.concatenate([[-1], inner, [-1]])[:count] if len(values) else np.array([-1])
    evicted = np.where(rises["evicted_keys"] >= 0, rises["evicted_keys"], outside)
    return pd.DataFrame(
        {
            "epoch": epoch,
            "after_seq": np.concatenate([[first_seq - 1], samples["seq"].to_numpy(np.int64)]),
            "start_us": times[:-1],
            "end_us": times[1:],
            "hits": rises["keyspace_hits"],
            "misses": rises["keyspace_misses"],
            "evicted": evicted,
            "volatile_only": limit == "volatile",
            "empty": np.concatenate([[False], _without_keys(samples, rises["keyspace_hits"])]),
            "ends_us": end,
        }
    )


def _without_keys(samples: pd.DataFrame, rises: Ints) -> Bools:
    """Return at which samples the server held no key.

    A dump that leaves INFO's section of databases out says 0 throughout: hits then betray it.
    """
    keys = samples["keys"].to_numpy(np.int64)
    if not (keys > 0).any() and (rises > 0).any():
        return np.zeros(len(keys), np.bool_)
    return keys == 0


@cache
def _effects_of(name: str) -> tuple[int, int, int, int]:
    """Return a command's effect on its keys and on its target, its type and its fixed flags."""
    rule = rules().get(name) or rules().get(name.split(" ", 1)[0]) or Rule()
    known = name in rules() or name.split(" ", 1)[0] in rules()
    kind, flags = _TYPES.get(rule.type, 0), _FIXED_FLAGS.get(name, 0)
    if name in _PAIRS:
        return (*_PAIRS[name], kind, flags)
    if rule.target:
        # A write whose result nobody sees: empty, and then the target is gone, only if all sources are.
        return (kernel.SOURCE if rule.op == "read" else kernel.FORGET), (kernel.RESULT if kind else kernel.FORGET), kind, flags
    effect = _EFFECTS.get(name, kernel.NOTHING if known else kernel.FORGET)
    if name not in _EFFECTS and known:
        if rule.may_empty:
            effect = kernel.MAYBE_REMOVE
        elif rule.creates:
            effect = kernel.ADD
        elif rule.op in ("write", "delete") and not rule.type:
            effect = kernel.FORGET  # of a module, or of a version that was never measured
    return effect, effect, kind, flags


def access_rows(
    accesses: pd.DataFrame, windows: Windows, *, families: pd.Series | None = None, family_names: Sequence[str] = ()
) -> AccessRows:
    """Return a frame of accesses as the arrays that are followed.

    Parameters
    ----------
    accesses : pandas.DataFrame
        ``schema.ACCESSES``, in stream order. A part of a log must hold every row of each of its keys in all
        databases, and all rows without a key; the keys of one RENAME or COPY should be in one part, else
        what it leaves of them is unknown.
    windows : Windows
        Of the whole log.
    families : pandas.Series of str, indexed by key, optional
        The family of each key; found by :func:`coldcache.keys.families.key_families` by default.
    family_names : sequence of str, optional
        All families of the log, where `accesses` is a part of it.
    """
    order = np.lexsort((accesses["seq"].to_numpy(), accesses["epoch"].to_numpy()))
    frame = accesses.iloc[order]
    command, names = _labels(frame["command"])
    effects = np.array([_effects_of(name) for name in names], np.int64).reshape(-1, 4)
    node, node_names = _labels(frame["node"])
    scope, _ = pd.factorize(node * (1 << 20) + frame["db"].fillna(0).to_numpy(np.int64))
    named, key_names = pd.factorize(frame["key"])
    key, of_key = pd.factorize(np.where(named >= 0, named * (int(scope.max(initial=0)) + 1) + scope, -1))
    if (missing := np.flatnonzero(of_key == -1)).size:
        key = np.where(key == missing[0], -1, key - (key > missing[0]))
    if families is None:
        families = key_families(pd.Series(key_names))
    all_families = pd.Index(family_names if len(family_names) else pd.unique(families.reindex(key_names)))
    of_name = all_families.get_indexer(pd.Index(families.reindex(key_names)))
    t_us: Ints = frame["t"].astype("int64").to_numpy(np.int64)  # type: ignore[assignment]
    verbs = np.array(names, dtype=object)
    target = _targets(frame, verbs, command)
    effect = np.where(target, effects[command, 1], effects[command, 0])
    rows = AccessRows(
        place=order.astype(np.int64),
        t_us=t_us,
        seq=frame["seq"].to_numpy(np.int64),
        epoch=frame["epoch"].to_numpy(np.int32),
        node=node.astype(np.int32),
        scope=scope.astype(np.int32),
        key=key.astype(np.int32),
        family=np.append(of_name, -1)[named].astype(np.int32),  # the last, -1, is that of rows without a key
        effect=effect.astype(np.uint8),
        flags=(effects[command, 3] | _conditions(frame)).astype(np.uint8),
        type=effects[command, 2].astype(np.uint8),
        deadline_us=_deadlines(frame, t_us, np.array(["EXPIRE" in name for name in names], bool)[command]),
        lookups=frame["lookups"].to_numpy(np.uint8),
        arg=frame["arg"].fillna(-1).to_numpy(np.int32),
        answers=_answers(frame, verbs, command),
        window=_window_of(frame["epoch"].to_numpy(np.int64), frame["seq"].to_numpy(np.int64), windows),
        families=tuple(str(name) for name in all_families),
        keys=int(key.max(initial=-1)) + 1,
        scopes=int(scope.max(initial=-1)) + 1,
        nodes=len(node_names),
    )
    blocks = np.array([name.startswith(("BL", "BR", "BZ")) for name in names], bool)[command]
    crosses = np.array([name in _OTHER_DATABASES for name in names], bool)[command]
    return _with_added(_without_queues(rows, blocks), crosses, named, node, windows)


def _labels(column: pd.Series) -> tuple[Ints, list[str]]:
    """Return a column of few distinct texts as numbers and their texts; null is the empty text."""
    labels = column if isinstance(column.dtype, pd.CategoricalDtype) else column.astype("category")
    names = [*labels.cat.categories.astype("str"), ""]
    # Null is -1: the last name.
    codes: Ints = labels.cat.codes.to_numpy(np.int64)  # type: ignore[assignment]
    return codes % len(names), names


def _is_write(frame: pd.DataFrame) -> Bools:
    """Return which rows write a value."""
    number, names = _labels(frame["op"])
    return np.array([name == "write" for name in names], bool)[number]


def _targets(frame: pd.DataFrame, verbs: npt.NDArray[np.object_], command: Ints) -> Bools:
    """Return which rows are what a command writes beside the keys that it reads or takes."""
    pair = np.array([verb in _PAIRS and rules()[verb].form == Form.PAIR for verb in verbs], bool)
    other = np.array([verb in rules() and rules()[verb].target > 0 for verb in verbs], bool) & ~pair
    written = _is_write(frame)
    return (pair[command] & frame["arg"].eq(1).fillna(value=False).to_numpy(bool)) | (other[command] & written)


def _conditions(frame: pd.DataFrame) -> Ints:
    """Return the conditions of every row as flags."""
    number, texts = _labels(frame["condition"])
    flags = [sum(_FLAGS.get(word, 0) for word in set(text.split())) for text in texts]
    return np.array(flags, np.int64)[number]


def _deadlines(frame: pd.DataFrame, t_us: Ints, expires: Bools) -> Ints:
    """Return when the times to live end that are asked for, or what else becomes of them."""
    form, names = _labels(frame["ttl_form"])
    asked = np.array([name != "" for name in names], bool)[form]
    ttl = frame["ttl_ms"].to_numpy(np.float64, na_value=np.nan)
    ms = np.nan_to_num(np.clip(ttl, -_MS_FAR, _MS_FAR)).astype(np.int64)
    absolute = np.array([name in _ABSOLUTE for name in names], bool)[form]
    deadline = np.where(ms >= _MS_FAR, kernel.FAR, t_us + ms * 1000)
    # EXPIRE takes what is past and deletes; SET and GETEX refuse what is not positive.
    deadline = np.where(absolute & (ms * 1000 < -int(SLACK_MS * 1000)), kernel.PAST, deadline)
    deadline = np.where(~absolute & (ms <= 0), np.where(expires, kernel.PAST, kernel.REFUSED), deadline)
    not_positive = absolute & ~expires & (ms + t_us // 1000 <= 0)
    deadline = np.where(np.isnan(ttl) | not_positive, kernel.REFUSED, deadline)
    return np.where(asked, deadline, kernel.FOREVER).astype(np.int64)


def _answers(frame: pd.DataFrame, verbs: npt.NDArray[np.object_], command: Ints) -> npt.NDArray[np.uint8]:
    """Return which rows are writes that may answer a read, as in the ledger: GETSET answers none."""
    whole = np.array([verb in STRING_WRITES for verb in verbs], bool)[command]
    write = _is_write(frame) & frame["lookups"].eq(0).to_numpy()
    return np.where(write, np.where(whole, kernel.ANSWERS_ALL, kernel.ANSWERS_MISSES), kernel.ANSWERS_NOTHING).astype(np.uint8)


def _window_of(epoch: Ints, seq: Ints, windows: Windows) -> npt.NDArray[np.int32]:
    """Return the stretch of every row; rows are grouped by epoch."""
    window = np.zeros(len(seq), np.int32)
    for number in np.unique(epoch):
        rows = slice(*np.searchsorted(epoch, [number, number + 1]))
        first, last = np.searchsorted(windows.epoch, [number, number + 1])
        # A row stands behind the sample whose position is the last one below its own.
        found = np.searchsorted(windows.after_seq[first:last], seq[rows], side="left") - 1
        window[rows] = first + np.maximum(found, 0)
    return window


def _without_queues(rows: AccessRows, blocks: Bools) -> AccessRows:
    """Return the rows with nothing said of keys on which clients block.

    What serves a blocked client has no line of its own: a list that was pushed to may be empty at once.
    """
    waits = blocks & (rows.key >= 0)
    if not waits.any():
        return rows
    queue = np.zeros(rows.keys, bool)
    queue[rows.key[waits]] = True
    hidden = (rows.key >= 0) & queue[rows.key] & (rows.effect != kernel.NOTHING)
    return replace(rows, effect=np.where(hidden, kernel.FORGET, rows.effect).astype(np.uint8))


def _with_added(rows: AccessRows, crosses: Bools, named: Ints, node: Ints, windows: Windows) -> AccessRows:
    """Return the rows with those added that stand for what a line, or an INFO sample, did to other keys.

    MOVE and COPY may go to any database: the key of that name there becomes unknown. A server without keys
    at a sample has none of any name.
    """
    at: list[int] = []
    scopes = np.zeros(0, np.int64)
    added: list[tuple[int, int, int]] = []  # key, effect, row to copy the rest from
    crossing = np.flatnonzero(crosses & (rows.effect != kernel.SOURCE) & (rows.key >= 0))
    if crossing.size and rows.scopes > 1:
        # Keys of one name on one server stand together in `alike`.
        name = named * rows.nodes + node
        name_of, scopes = np.zeros(rows.keys, np.int64), np.zeros(rows.keys, np.int64)
        with_key = rows.key >= 0
        name_of[rows.key[with_key]], scopes[rows.key[with_key]] = name[with_key], rows.scope[with_key]
        alike = np.argsort(name_of, kind="stable")
        first, last = (np.searchsorted(name_of[alike], name[crossing], side) for side in ("left", "right"))
        for row, start, end in zip(crossing.tolist(), first, last, strict=True):
            others = [int(other) for other in alike[start:end] if other != rows.key[row]]
            at += [row + 1] * len(others)
            added += [(other, kernel.FORGET, row) for other in others]
    for window in np.flatnonzero(windows.empty):
        row = int(np.searchsorted(rows.window, window))
        if row < len(rows.t_us) and rows.epoch[row] == windows.epoch[window]:
            at.append(row)
            added.append((-1, kernel.EMPTY_NODE, row))
    if not added:
        return rows
    place, source = np.array(at), np.array([row for _, _, row in added])
    new: dict[str, Array] = {}
    for field in fields(AccessRows):
        column = getattr(rows, field.name)
        if isinstance(column, np.ndarray):
            new[field.name] = column[source].copy()
    new["place"][:] = -1
    new["key"][:] = [key for key, _, _ in added]
    new["effect"][:] = [effect for _, effect, _ in added]
    new["lookups"][:] = 0
    new["answers"][:] = 0
    other_keys = np.array([key for key, _, _ in added])
    if scopes.size:
        new["scope"][other_keys >= 0] = scopes[other_keys[other_keys >= 0]]
    return replace(rows, **{name: np.insert(getattr(rows, name), place, column) for name, column in new.items()})  # type: ignore[arg-type]


# --- Following the keys ---------------------------------------------------------------------------


def trace_reads(
    rows: AccessRows, windows: Windows, *, census: npt.NDArray[np.uint8] | None = None, slack_ms: float = SLACK_MS
) -> Reads:
    """Follow every key through its commands and say what that tells of each look-up.

    Parameters
    ----------
    rows, windows
        Of :func:`access_rows` and :func:`info_windows`.
    census : array of uint8, one element a key, optional
        What is known of each key at the start of the log: ``NO_CENSUS``, ``CENSUS_ABSENT`` or ``CENSUS_PRESENT``.
    slack_ms : float
        How near to its deadline a key's presence stays open, milliseconds.
    """
    count = int(np.count_nonzero((rows.lookups > 0) & (rows.key >= 0)))
    out = kernel.Seen(
        row=np.empty(count, np.int64), seen=np.empty(count, np.uint8), kind=np.empty(count, np.uint8),
        hint=np.empty(count, np.uint8), before=np.empty(count, np.int32), life=np.empty(count, np.int32),
        state=np.empty(count, np.uint8), gap_us=np.empty(count, np.int64),
    )  # fmt: skip
    columns = kernel.Rows(**{name: _plain(getattr(rows, name)) for name in kernel.Rows._fields})
    after = np.cumsum(windows.evicted)
    kernel.trace(
        columns, kernel.unknown_keys(rows.keys), np.zeros(rows.keys, np.uint8) if census is None else census,
        rows.scopes, rows.nodes, round(slack_ms * 1000), round(FILL_WINDOW_S * 1e6),
        after - windows.evicted, after, _plain(windows.volatile_only), out,
    )  # fmt: skip
    return Reads(
        place=rows.place[out.row],
        t_us=rows.t_us[out.row],
        family=rows.family[out.row],
        window=rows.window[out.row],
        lookups=rows.lookups[out.row],
        family_ttl_us=_family_ttl(rows),
        **{name: getattr(out, name) for name in kernel.Seen._fields if name != "row"},
    )


def _plain(column: Array) -> Array:
    """Return an array as the kernel is compiled for: contiguous and writable, which pandas's are not always."""
    return np.require(column, requirements=["C", "W"])


def _family_ttl(rows: AccessRows) -> Floats:
    """Return the longest time to live of each family, µs; infinite where part of it is written without."""
    count = len(rows.families)
    # INCR and EXPIRE make one write with a time to live.
    stores = (rows.effect == kernel.STORE) & (rows.deadline_us != kernel.REFUSED) & (rows.family >= 0)
    sets_ttl = (stores | ((rows.effect == kernel.EXPIRE) & (rows.family >= 0))) & (rows.deadline_us > 0)
    sets_ttl &= rows.deadline_us < kernel.FAR
    longest = np.zeros(count)
    np.maximum.at(longest, rows.family[sets_ttl], (rows.deadline_us - rows.t_us)[sets_ttl].astype(float))
    writes = np.bincount(rows.family[stores], minlength=count)
    with_ttl = np.bincount(rows.family[sets_ttl], minlength=count)
    return np.where((with_ttl > 0) & (with_ttl >= _LEAST_SHARE_WITH_TTL * writes), longest, np.inf)


def join_reads(parts: Sequence[Reads]) -> Reads:
    """Return the reads of several parts of one log as one; all parts have the same families and windows."""
    reads = np.cumsum([0, *(len(part.t_us) for part in parts)])
    lives = np.cumsum([0, *(int(part.life.max(initial=-1)) + 1 for part in parts)])
    columns: dict[str, Array] = {}
    for field in fields(Reads):
        columns[field.name] = np.concatenate([getattr(part, field.name) for part in parts])
    for name, offsets in (("before", reads), ("life", lives)):
        shifted = [
            np.where(getattr(part, name) < 0, -1, getattr(part, name) + at) for part, at in zip(parts, offsets, strict=False)
        ]
        columns[name] = np.concatenate(shifted).astype(np.int32)
    columns["family_ttl_us"] = np.max([part.family_ttl_us for part in parts], axis=0)
    return Reads(**columns)  # type: ignore[arg-type]


# --- Estimates ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class _Chains:
    """The reads that are not certain hits, as the estimate needs them, and what it found."""

    before: npt.NDArray[np.int32]
    kind: npt.NDArray[np.uint8]
    fade: Floats
    estimated: Bools  # the fade is one of the family's parameters
    family: npt.NDArray[np.int32]
    answered: npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class _Parameters:
    """What is estimated of each family: chances, 0 to 1.

    present : a key that no line named is there at the start
    p_fill : a miss is answered by a write, if its key is ever filled
    p_rewrite : a hit is
    never : an absent key is of those that are never filled
    fade : a key goes between two reads
    """

    present: Floats
    p_fill: Floats
    p_rewrite: Floats
    never: Floats
    fade: Floats


def _answered(reads: Reads, windows: Windows) -> npt.NDArray[np.uint8]:
    """Return 1 for a read that a write answered, 0 for one that none did, 2 where the log ended too soon to tell."""
    answered = reads.gap_us >= 0
    usual = np.quantile(reads.gap_us[answered], 0.95) if answered.any() else 0.0
    cut_off = ~answered & (reads.t_us > windows.ends_us[reads.window] - usual)
    return np.where(answered, 1, np.where(cut_off, 2, 0)).astype(np.uint8)


def _sums(index: Array, weights: Floats, count: int) -> Floats:
    """Return the sum of the weights at each index below `count`."""
    return np.bincount(index, weights, count).astype(np.float64)


def _shares(part: Floats, whole: Floats, prior: float | Floats, weight: float) -> Floats:
    """Return part / whole by family, drawn towards `prior` as if by `weight` more observations."""
    return (part + prior * weight) / (whole + weight)


def _chains(reads: Reads, answered: npt.NDArray[np.uint8], windows: Windows, chosen: Bools) -> _Chains:
    """Return the chains of the chosen reads."""
    index = np.cumsum(chosen) - 1
    before = reads.before[chosen]
    before = np.where(before >= 0, index[np.maximum(before, 0)], -1).astype(np.int32)
    kind, hint, t_us = reads.kind[chosen], reads.hint[chosen], reads.t_us[chosen].astype(float)
    family = reads.family[chosen]
    fade = np.zeros(len(before))
    fade[hint == kernel.BEFORE_DEADLINE] = 0.02
    fade[hint == kernel.AFTER_DEADLINE] = 0.98
    # A key that was there at the start ends within its family's time to live; any age of it is equally likely.
    ttl = reads.family_ttl_us[family]
    ageing = (kind == kernel.START) & (hint == kernel.NO_HINT) & np.isfinite(ttl)
    began = _epoch_starts(windows)[reads.window[chosen]].astype(float)
    then = np.where(before >= 0, t_us[np.maximum(before, 0)], began)
    left, left_then = (np.clip(1 - (moment - began) / np.maximum(ttl, 1), 1e-4, 1) for moment in (t_us, then))
    fade = np.where(ageing, np.clip(1 - left / left_then, 0, 0.9999), fade)
    estimated = ~ageing & (hint != kernel.BEFORE_DEADLINE) & (hint != kernel.AFTER_DEADLINE) & (kind != kernel.ABSENT)
    # What is unknown at the start is unknown by `present`; it does not fade before its first read.
    estimated &= (before >= 0) | (kind != kernel.START)
    return _Chains(before, kind, fade, estimated, family, answered[chosen])


def _epoch_starts(windows: Windows) -> Ints:
    """Return the start of each window's epoch."""
    first = np.searchsorted(windows.epoch, windows.epoch)
    return windows.start_us[first]


def _posterior(
    chains: _Chains, parameters: _Parameters, scratch: tuple[Floats, Floats], tilt: Floats | None = None
) -> tuple[Floats, Floats]:
    """Return each read's chance of a hit and the counts by family; `tilt` shifts a family's log-odds of a key to be there."""
    state, share = scratch
    stats = np.zeros((len(parameters.present), 8))
    factor = np.exp(np.zeros(len(stats)) if tilt is None else tilt)
    fade = np.where(chains.estimated, parameters.fade[chains.family], chains.fade)
    fade = fade / (fade + (1 - fade) * factor[chains.family])
    present = parameters.present * factor / (parameters.present * factor + 1 - parameters.present)
    kernel.posterior(
        chains.before, chains.kind, fade, chains.family, chains.answered, np.clip(present, 1e-12, 1 - 1e-12),
        parameters.p_fill, parameters.p_rewrite, parameters.never, state, share, stats,
    )  # fmt: skip
    return state[:, 0], stats


def _estimate(
    reads: Reads, answered: npt.NDArray[np.uint8], chains: _Chains, scratch: tuple[Floats, Floats], *, evicting: bool
) -> tuple[_Parameters, Bools]:
    """Return the parameters of every family by expectation-maximisation, and which families no write ever answered."""
    count = len(reads.family_ttl_us)
    told = answered != 2

    def by_family(chosen: Bools) -> Floats:
        return np.bincount(reads.family[chosen], minlength=count).astype(float)

    hits, misses = (told & (reads.seen == seen) for seen in (kernel.CERTAIN_HIT, kernel.CERTAIN_MISS))
    filled, rewritten = by_family(misses & (answered == 1)), by_family(hits & (answered == 1))
    all_filled = float((filled.sum() + 4.5) / (misses.sum() + 5))
    all_rewritten = float((rewritten.sum() + 0.05) / (hits.sum() + 5))
    unwritten = by_family(answered == 1) == 0
    # Of reads that no write of their family ever answers, silence says nothing.
    never = np.where(unwritten, 0.99, _NEVER_FILLED)
    # Without evictions and times to live nothing goes of itself.
    fade = _FADE if evicting else 1e-6
    parameters = _Parameters(
        present=np.full(count, 0.5),
        p_fill=_shares(filled, by_family(misses), all_filled, _WEIGHT),
        p_rewrite=np.clip(_shares(rewritten, by_family(hits), all_rewritten, _WEIGHT), 1e-4, 0.999),
        never=never,
        fade=np.full(count, fade),
    )
    for _ in range(_ROUNDS):
        _, stats = _posterior(chains, parameters, scratch)
        parameters = replace(
            parameters,
            present=np.where(unwritten, 0.5, np.clip(_shares(stats[:, 1], stats[:, 0], 0.5, 2), 1e-4, 1 - 1e-4)),
            p_fill=np.clip(_shares(stats[:, 5], stats[:, 4], all_filled, _WEIGHT), 1e-4, 0.999),
            never=np.clip(_shares(stats[:, 3], stats[:, 2], never, _WEIGHT), 1e-4, 0.999),
            fade=np.clip(_shares(stats[:, 7], stats[:, 6], _FADE, 50), 1e-6, 0.5) if evicting else parameters.fade,
        )
    return parameters, unwritten


def _tilts(chains: _Chains, parameters: _Parameters, weights: Floats, target: Floats, scratch: tuple[Floats, Floats]) -> Floats:
    """Return by how much each family's odds must be shifted for its weighted sum of chances to be its target."""
    count = len(target)
    low, high = np.full(count, -25.0), np.full(count, 25.0)
    for _ in range(24):
        middle = (low + high) / 2
        chance, _ = _posterior(chains, parameters, scratch, middle)
        short = _sums(chains.family, weights * chance, count) < target
        low, high = np.where(short, middle, low), np.where(short, high, middle)
    return (low + high) / 2


def _chances(
    chains: _Chains, reads: Reads, answered: npt.NDArray[np.uint8], weights: Floats, total: float | None, *, evicting: bool
) -> Floats:
    """Return each read's chance of a hit; with a `total`, so that their weighted sum is about that."""
    scratch = (np.empty((len(chains.before), 3)), np.empty((len(chains.before), 3)))
    step = -(-len(chains.before) // _SAMPLE)
    drawn = _chain_starts(chains.before) % max(step, 1) == 0
    sample = _part(chains, drawn) if step > 1 else chains
    room = (scratch[0][: len(sample.before)], scratch[1][: len(sample.before)])
    parameters, unwritten = _estimate(reads, answered, sample, room, evicting=evicting)
    chance = _posterior(chains, parameters, scratch)[0].copy()
    if total is None:
        return chance
    target = _family_targets(chains, chance, weights, unwritten, total)
    whole = _sums(chains.family, weights * chance, len(target))
    part = _sums(chains.family[drawn], (weights * chance)[drawn], len(target))
    tilt = _tilts(sample, parameters, weights[drawn], target * part / np.maximum(whole, 1e-9), room)
    return _posterior(chains, parameters, scratch, tilt)[0].copy()


def _part(chains: _Chains, chosen: Bools) -> _Chains:
    """Return some of the chains, whole."""
    index = np.cumsum(chosen) - 1
    parts = {field.name: getattr(chains, field.name)[chosen] for field in fields(_Chains)}
    parts["before"] = np.where(parts["before"] >= 0, index[np.maximum(parts["before"], 0)], -1).astype(np.int32)
    return _Chains(**parts)


def _family_targets(chains: _Chains, chance: Floats, weights: Floats, unwritten: Bools, total: float) -> Floats:
    """Return how many of the weighted reads of each family are hits, if all of them make `total`.

    A family may be wrong by what is in doubt of its single reads, and by its reads that nothing answered: misses of
    keys that nobody ever fills are a small share of them, or half where no write of the family answered any.
    """
    count = len(unwritten)
    estimate = _sums(chains.family, weights * chance, count)
    silent = _sums(chains.family, weights * ((chains.answered != 1) & (chains.kind != kernel.ABSENT)), count)
    doubt = _sums(chains.family, weights * chance * (1 - chance), count)
    doubt = doubt + np.where(unwritten, 0.5, _NEVER_FILLED) * silent
    high = _sums(chains.family, weights, count)
    row = [column[None, :] for column in (estimate, doubt, np.zeros(count), high)]
    return _projected(row[0], row[1], row[2], row[3], np.array([total]))[0]


def _projected(estimate: Floats, doubt: Floats, low: Floats, high: Floats, total: Floats) -> Floats:
    """Return the estimates of the families nearest to those given, by doubt, within bounds and with the right sum.

    Rows are windows, columns families. Minimises Σ (x - estimate)² / doubt: x = estimate + λ·doubt, clipped; λ by bisection.
    """
    total = np.clip(total, low.sum(axis=1), high.sum(axis=1))
    reach = (np.abs(high - low) + 1).sum(axis=1) / np.maximum(np.where(doubt > 0, doubt, np.inf).min(axis=1), 1e-9)
    left, right = -reach, reach
    for _ in range(80):
        middle = (left + right) / 2
        short = np.clip(estimate + middle[:, None] * doubt, low, high).sum(axis=1) < total
        left, right = np.where(short, middle, left), np.where(short, right, middle)
    return np.clip(estimate + right[:, None] * doubt, low, high)


# --- Settling -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class _Cells:
    """Look-ups by window and family, float64 (windows, families)."""

    reads: Floats
    hits: Floats  # certain
    misses: Floats  # certain


def settle(reads: Reads, windows: Windows, families: Sequence[str], rows: int) -> Inference:
    """Say what every read got, from what the states of the keys tell and what INFO counted.

    Parameters
    ----------
    reads : Reads
        All look-ups of the log, of one :func:`trace_reads` or of several joined.
    windows : Windows
        Of the whole log.
    families : sequence of str
        Names of the families.
    rows : int
        Rows of the frame that ``Reads.place`` refers to.
    """
    windows, reads = _joined_windows(windows, reads, len(families))
    answered = _answered(reads, windows)
    weights = reads.lookups.astype(float)
    certain = reads.seen <= kernel.CERTAIN_HIT
    p_hit = (reads.seen == kernel.CERTAIN_HIT).astype(float)
    cells = _cells(reads, weights, len(windows.epoch), len(families))
    info_hits = _info_hits(windows, cells)
    anchored = ~np.isnan(info_hits)
    if (~certain).any():
        chosen = reads.seen != kernel.CERTAIN_HIT
        chains = _chains(reads, answered, windows, chosen)
        open_weights = np.where(anchored[reads.window] & ~certain, weights, 0.0)[chosen]
        total = float((info_hits - cells.hits.sum(axis=1))[anchored].sum()) if anchored.any() else None
        chance = _chances(chains, reads, answered, open_weights, total, evicting=bool(windows.evicted.any()))
        p_hit[chosen] = np.where(certain[chosen], 0.0, chance)
    outcome, p_hit, hits = _with_totals(reads, weights, certain, p_hit, cells, info_hits)
    return _result(reads, windows, families, rows, answered, weights, certain, outcome, p_hit, hits, cells)


def _joined_windows(windows: Windows, reads: Reads, families: int) -> tuple[Windows, Reads]:
    """Return the windows, neighbours joined where there are too many of them, and the reads with their new numbers."""
    count = len(windows.epoch)
    step = -(-count * max(families, 1) // _MOST_CELLS)
    if step <= 1:
        return windows, reads
    # Neighbours of one epoch that INFO counted become one.
    group = np.cumsum(np.r_[True, (np.diff(windows.epoch) != 0) | np.diff(windows.anchored.astype(int)).astype(bool)])
    within = np.arange(count) - np.searchsorted(group, group)
    number = np.cumsum(np.r_[True, (np.diff(group) != 0) | (within[1:] % step == 0)]) - 1
    first, last = (
        np.searchsorted(number, np.arange(number[-1] + 1)),
        np.searchsorted(number, np.arange(number[-1] + 1), "right") - 1,
    )

    def summed(column: Ints) -> Ints:
        return np.add.reduceat(column, first)

    joined = replace(
        windows,
        epoch=windows.epoch[first], after_seq=windows.after_seq[first], start_us=windows.start_us[first],
        end_us=windows.end_us[last], hits=np.where(windows.anchored[first], summed(windows.hits), -1),
        misses=np.where(windows.anchored[first], summed(windows.misses), -1), evicted=summed(windows.evicted),
        volatile_only=windows.volatile_only[first], empty=windows.empty[first], ends_us=windows.ends_us[first],
    )  # fmt: skip
    return joined, replace(reads, window=number[reads.window].astype(np.int32))


def _cells(reads: Reads, weights: Floats, windows: int, families: int) -> _Cells:
    cell = reads.window.astype(np.int64) * families + reads.family

    def table(chosen: Bools | slice) -> Floats:
        return _sums(cell[chosen], weights[chosen], windows * families).reshape(windows, families)

    return _Cells(table(slice(None)), table(reads.seen == kernel.CERTAIN_HIT), table(reads.seen == kernel.CERTAIN_MISS))


def _info_hits(windows: Windows, cells: _Cells) -> Floats:
    """Return INFO's hits among the look-ups of each window, within what is certain; NaN where INFO does not say.

    Where INFO counted more or fewer look-ups than the lines make, its hit rate is taken.
    """
    expected = cells.reads.sum(axis=1)
    counted = windows.hits + windows.misses
    told = windows.anchored & (counted > 0) & (expected > 0)
    rate = np.divide(windows.hits, counted, out=np.full(len(counted), np.nan), where=told)
    hits = np.where(counted == expected, windows.hits, np.rint(rate * expected))
    return np.where(told, np.clip(hits, cells.hits.sum(axis=1), expected - cells.misses.sum(axis=1)), np.nan)


def _with_totals(
    reads: Reads, weights: Floats, certain: Bools, p_hit: Floats, cells: _Cells, info_hits: Floats
) -> tuple[npt.NDArray[np.int8], Floats, Floats]:
    """Return outcomes, chances and hits by window and family that agree with INFO's hits in every window."""
    shape = cells.reads.shape
    cell = reads.window.astype(np.int64) * shape[1] + reads.family
    unsure = ~certain
    estimate = _sums(cell, weights * p_hit, cells.reads.size).reshape(shape)
    doubt = _sums(cell[unsure], (weights * (p_hit * (1 - p_hit) + 1e-4))[unsure], cells.reads.size).reshape(shape)
    outcome = (p_hit > 0.5).astype(np.int8)
    anchored = ~np.isnan(info_hits)
    if not anchored.any():
        return outcome, p_hit, estimate
    high = (cells.reads - cells.misses)[anchored]
    estimate[anchored] = _projected(estimate[anchored], doubt[anchored], cells.hits[anchored], high, info_hits[anchored])
    # The likeliest of each window are its hits, as many as INFO says: those in most doubt give way.
    quota = np.nan_to_num(info_hits) - cells.hits.sum(axis=1)
    chosen = np.flatnonzero(unsure & anchored[reads.window])
    order = chosen[np.lexsort((-p_hit[chosen], reads.window[chosen]))]
    window = reads.window[order]
    taken = np.cumsum(weights[order])
    taken -= (taken - weights[order])[np.searchsorted(window, window)]
    outcome[order] = taken - weights[order] / 2 < quota[window]
    p_hit = p_hit.copy()
    p_hit[order] = np.where(outcome[order] == HIT, np.maximum(p_hit[order], 0.5), np.minimum(p_hit[order], 0.5))
    return outcome, p_hit, estimate


def _result(
    reads: Reads, windows: Windows, families: Sequence[str], rows: int, answered: npt.NDArray[np.uint8], weights: Floats,
    certain: Bools, outcome: npt.NDArray[np.int8], p_hit: Floats, hits: Floats, cells: _Cells,
) -> Inference:  # fmt: skip
    """Put the result together."""
    low, high, low_unevicted, totals = _bounds(reads, windows, weights, cells)
    count = len(families)
    misses = (reads.seen == kernel.CERTAIN_MISS) & (answered != 2)
    filled = np.bincount(reads.family[misses & (answered == 1)], minlength=count)
    judged = np.bincount(reads.family[misses], minlength=count)
    table = pd.DataFrame(
        {
            "family": pd.array(families, dtype="str"),
            "reads": cells.reads.sum(axis=0).astype(np.int64),
            "hits": np.clip(hits.sum(axis=0), low, high),
            "hits_low": low,
            "hits_high": high,
            "hits_low_unevicted": low_unevicted,
            "p_fill": np.divide(filled, judged, out=np.full(count, np.nan), where=judged > 0),
        }
    )
    table = table[table["reads"] > 0].sort_values(["reads", "family"], ascending=[False, True], ignore_index=True)
    shown = _windows_table(windows, cells, hits)
    told = shown["counted"].notna()
    expected, counted = int(shown.loc[told, "expected"].sum()), int(shown.loc[told, "counted"].sum())
    state = np.where(outcome == MISS, _states(reads, windows, outcome), kernel.UNKNOWN)

    def spread(values: Array, empty: float, dtype: type[np.generic]) -> Array:
        whole = np.full(rows, empty, dtype)
        whole[reads.place] = values.astype(dtype)
        return whole

    return Inference(
        outcome=spread(outcome, NO_READ, np.int8),  # type: ignore[arg-type]
        p_hit=spread(p_hit, np.nan, np.float32),  # type: ignore[arg-type]
        certain=spread(certain, 0, np.bool_),  # type: ignore[arg-type]
        key_state=spread(state, 0, np.int8),  # type: ignore[arg-type]
        families=table,
        windows=shown,
        reads=int(weights.sum()),
        hits=float(np.clip(hits.sum(), totals[0], totals[1])),
        hits_low=totals[0],
        hits_high=totals[1],
        hits_low_unevicted=totals[2],
        expected=expected if told.any() else int(weights.sum()),
        counted=counted if told.any() else None,
        caveats=_caveats(reads, expected, counted, informed=bool(told.any())),
    )


def _states(reads: Reads, windows: Windows, outcome: npt.NDArray[np.int8]) -> npt.NDArray[np.uint8]:
    """Return what had become of the keys that no line had named: never written, or ended after a hit."""
    unnamed = (reads.kind == kernel.START) & (reads.seen == kernel.OPEN)
    mortal = np.isfinite(reads.family_ttl_us[reads.family])
    evicting = bool((windows.evicted % kernel.UNBOUNDED).any())
    how = np.where(mortal, kernel.EXPIRED, kernel.EVICTED if evicting else kernel.UNKNOWN)
    # Hits come first in a chain: was its first read one? If not, and keys are evicted, it may have been that.
    ended = outcome[_chain_starts(reads.before)] == HIT
    before = np.where(ended, how, kernel.UNKNOWN if evicting else kernel.NEVER_WRITTEN)
    return np.where(unnamed, before, reads.state).astype(np.uint8)


def _chain_starts(before: npt.NDArray[np.int32]) -> Ints:
    """Return the first read of the chain of each read."""
    first = np.where(before >= 0, before, np.arange(len(before)))
    while True:
        further = first[first]
        if np.array_equal(further, first):
            return first
        first = further


def _windows_table(windows: Windows, cells: _Cells, hits: Floats) -> pd.DataFrame:
    """Return the table of the stretches, see `Inference.windows`."""
    start, end = (pd.to_datetime(stamps, unit="us", utc=True).as_unit("us") for stamps in (windows.start_us, windows.end_us))
    anchored = windows.anchored
    table = pd.DataFrame(
        {
            "epoch": windows.epoch,
            "start": start,
            "end": end,
            "expected": cells.reads.sum(axis=1).astype(np.int64),
            "counted": pd.array(np.where(anchored, windows.hits + windows.misses, 0), dtype="Int64"),
            "info_hits": pd.array(np.where(anchored, windows.hits, 0), dtype="Int64"),
            "hits": hits.sum(axis=1),
        }
    )
    table.loc[~anchored, ["counted", "info_hits"]] = pd.NA
    return table[table["expected"].gt(0) | table["counted"].fillna(0).gt(0)].reset_index(drop=True)


def _bounds(reads: Reads, windows: Windows, weights: Floats, cells: _Cells) -> tuple[Ints, Ints, Ints, tuple[int, int, int]]:
    """Return each family's least and most hits, the least if nothing uncounted was evicted, and the same in all.

    An eviction ends one life of a key: the misses it makes are reads of that life. So many evictions as INFO
    counted cost at most the reads of so many lives, the ones with the most reads.
    """
    count = cells.reads.shape[1]
    at_risk = reads.seen == kernel.AT_RISK
    bounded = at_risk & (reads.life >= 0)
    evictions = int(windows.evicted[windows.evicted < kernel.UNBOUNDED].sum())
    per_life = np.bincount(reads.life[bounded], weights[bounded])
    of_life = np.zeros(len(per_life), np.int64)
    of_life[reads.life[bounded]] = reads.family[bounded]
    kept = np.bincount(reads.family[bounded], weights[bounded], count)
    lost = np.zeros(count)
    order = np.lexsort((-per_life, of_life))
    rank = np.arange(len(order)) - np.searchsorted(of_life[order], of_life[order])
    costly = order[rank < evictions]
    np.add.at(lost, of_life[costly], per_life[costly])
    certain = cells.hits.sum(axis=0)
    low = certain + kept - lost
    unevicted = low + np.bincount(reads.family[at_risk & ~bounded], weights[at_risk & ~bounded], count)
    high = (cells.reads - cells.misses).sum(axis=0)
    all_lost = np.sort(per_life)[::-1][:evictions].sum()
    least, most = float(certain.sum() + kept.sum() - all_lost), float(high.sum())
    info_low, info_high, info_least, info_most = _bounds_by_info(windows, cells)
    low, high = np.maximum(low, info_low), np.minimum(high, info_high)
    least, most = max(least, info_least, low.sum()), min(most, info_most, high.sum())
    unevicted = np.minimum(np.maximum(unevicted, low), high)
    low_all = int(min(max(least, unevicted.sum()), most))
    whole = [column.astype(np.int64) for column in (low, high, unevicted)]
    return whole[0], whole[1], whole[2], (int(least), int(most), low_all)


def _bounds_by_info(windows: Windows, cells: _Cells) -> tuple[Floats, Floats, float, float]:
    """Return each family's least and most hits by what INFO leaves to it in every window, and the same in all."""
    low, high = cells.hits, cells.reads - cells.misses
    expected, counted = cells.reads.sum(axis=1), windows.hits + windows.misses
    apart = np.abs(expected - counted)
    told = windows.anchored
    least = np.where(told, np.maximum(windows.hits - apart, low.sum(axis=1)), low.sum(axis=1))
    most = np.where(told, np.minimum(windows.hits + apart, high.sum(axis=1)), high.sum(axis=1))
    others_low, others_high = low.sum(axis=1)[:, None] - low, high.sum(axis=1)[:, None] - high
    family_low = np.maximum(low, least[:, None] - others_high).sum(axis=0)
    family_high = np.minimum(high, most[:, None] - others_low).sum(axis=0)
    return family_low, family_high, float(least.sum()), float(most.sum())


def _caveats(reads: Reads, expected: int, counted: int, *, informed: bool) -> tuple[str, ...]:
    texts = []
    if informed and abs(expected - counted) > 0.02 * max(counted, 1):
        texts.append(f"INFO counted {counted:,} look-ups, the lines make {expected:,}: lines or servers are missing")
    if not informed:
        texts.append("no INFO: misses that nothing fills, and evictions, cannot be told from hits")
    risk = np.count_nonzero((reads.seen == kernel.AT_RISK) & (reads.life < 0))
    if risk:
        texts.append(
            f"{risk:,} reads of keys that were there unless evicted, and nobody counted evictions: no part of the lower bound"
        )
    return tuple(texts)


def infer(
    accesses: pd.DataFrame,
    *,
    info: pd.DataFrame | None = None,
    config: pd.DataFrame | None = None,
    families: pd.Series | None = None,
    census: Mapping[tuple[str, int], set[str]] | None = None,
    slack_ms: float = SLACK_MS,
) -> Inference:
    """Infer what every read of a log of commands got.

    Parameters
    ----------
    accesses : pandas.DataFrame
        ``schema.ACCESSES`` in stream order; its outcomes, if it has any, are not looked at.
    info, config : pandas.DataFrame, optional
        As for :func:`info_windows`.
    families : pandas.Series of str, indexed by key, optional
        As for :func:`access_rows`.
    census : mapping of (node, db) to set of keys, optional
        All keys that were there when the log began, for each database that was listed.
    slack_ms : float
        As for :func:`trace_reads`.

    Returns
    -------
    Inference
        Its arrays have one element for each row of `accesses`, in the same order.
    """
    windows = info_windows(accesses, info, config)
    rows = access_rows(accesses, windows, families=families)
    known = _census_of(accesses, rows, census) if census is not None else None
    reads = trace_reads(rows, windows, census=known, slack_ms=slack_ms)
    return settle(reads, windows, rows.families, len(accesses))


def _census_of(accesses: pd.DataFrame, rows: AccessRows, census: Mapping[tuple[str, int], set[str]]) -> npt.NDArray[np.uint8]:
    """Return what a census says of every key of the rows."""
    known = np.full(rows.keys, kernel.NO_CENSUS, np.uint8)
    own = (rows.place >= 0) & (rows.key >= 0)
    numbers, first = np.unique(rows.key[own], return_index=True)
    named = accesses.iloc[rows.place[own][first]]
    for number, node, db, key in zip(numbers, named["node"].astype("str"), named["db"], named["key"], strict=True):
        if (node, int(db)) in census:
            known[number] = kernel.CENSUS_PRESENT if key in census[node, int(db)] else kernel.CENSUS_ABSENT
    return known
