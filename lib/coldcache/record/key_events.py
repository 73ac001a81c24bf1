"""Key events: the server's ``notify-keyspace-events``, put back at the end, and the channels to subscribe to."""

from __future__ import annotations

import redis

from coldcache.errors import ServerRefusedError
from coldcache.record.server import Control

NEEDED_FLAGS = "Exemn$g"  # keyevent channel; expired, evicted, keymiss, new, strings, generic
# What the classes of NEEDED_FLAGS are heard for (Redis's db.c, t_string.c, bitops.c, hyperloglog.c): what
# tells of a miss, of the end of a key, and of a key that is there.
_ENDS = ("expired", "evicted", "del", "rename_from", "move_from")
_WRITES = ("new", "set", "setrange", "append", "incrby", "incrbyfloat", "setbit", "pfadd")
_MOVES = ("rename_to", "move_to", "copy_to", "restore")
_DATABASES = 16  # Redis's default
MOST_DATABASES = 1000  # a channel costs the server some 150 bytes for as long as we listen
_ALL = "A"  # stands for every class but m and n


def channels(config: dict[str, str], mode: str) -> list[list[str]]:
    """Return the channels that a mode listens to, a list for each database.

    Each by its name: a pattern is matched anew for every event and repeated in every message, and
    costs the server more than twice as much (measured, ``benchmarks/README.md``).

    Parameters
    ----------
    config : dict
        The server's settings; without ``databases`` the default of 16.
    mode : str
        ``exact``, ``events`` or ``changes``: without lines nobody asks whether an EXPIRE took effect;
        ``changes`` leaves the misses out.

    Raises
    ------
    ServerRefusedError
        There are too many databases.
    """
    count = max(int(config.get(name) or least) for name, least in (("databases", _DATABASES), ("cluster-databases", 1)))
    if count > MOST_DATABASES:
        raise ServerRefusedError(
            f"The server has {count:,} databases, and listening to the key events of more than {MOST_DATABASES:,} "
            "would cost it too much. Use --mode monitor."
        )
    events = _ENDS + _WRITES + _MOVES + {"exact": ("keymiss", "expire"), "events": ("keymiss",)}.get(mode, ())
    return [[f"__keyevent@{database}__:{event}" for event in events] for database in range(count)]


def merged_flags(before: str, *, new_keys: bool) -> str:
    """Return the flags that keep all of `before` and add what a recording needs.

    Parameters
    ----------
    new_keys : bool
        Ask for ``n`` too. Redis 6.2 refuses any string that holds it. With ``A`` in `before` it is
        asked for in any case a server knows it: CONFIG GET hides it then, so it may be in use.
    """
    wanted = NEEDED_FLAGS if new_keys else NEEDED_FLAGS.replace("n", "")
    covered = set(before) | (set("xe$g") if _ALL in before else set())
    return before + "".join(flag for flag in wanted if flag not in covered)


class KeyEventSetting:
    """Extends the setting of one server and puts it back.

    Attributes
    ----------
    before : str
        The setting as it was found.
    now : str or None
        The setting as the server prints it after the change; None while unchanged.
    """

    def __init__(self, control: Control) -> None:
        self.before = control.key_event_setting()
        self.now: str | None = None

    @property
    def enough(self) -> bool:
        """Whether the events needed are on already, so that nothing has to be changed."""
        return suffices(self.before)

    def lost(self, control: Control) -> bool:
        """Whether somebody has changed the setting meanwhile, so that events we need are missing."""
        found = control.key_event_setting()
        return found != (self.before if self.now is None else self.now) and not suffices(found)

    def extend(self, control: Control) -> None:
        """Switch on what is needed beside what is on.

        Raises
        ------
        redis.ResponseError
            The server refuses.
        """
        found = control.key_event_setting()
        if suffices(found):
            return
        if self.now is not None and found != self.now:
            self.before = found  # somebody else's wish by now: that is what is put back
        try:
            control.set_key_event_setting(merged_flags(found, new_keys=True))
        except redis.exceptions.NoPermissionError:
            raise
        except redis.ResponseError:
            control.set_key_event_setting(merged_flags(found, new_keys=False))
        self.now = control.key_event_setting()

    def restore(self, control: Control) -> None:
        """Put the setting back, unless somebody else has changed it meanwhile; safe to call twice."""
        if self.now is not None and control.key_event_setting() == self.now:
            control.set_key_event_setting(self.before)
        self.now = None  # only now: a failure above leaves it to be put back by the guardian


def suffices(setting: str) -> bool:
    """Whether the events that a recording needs are all on in a setting."""
    return not set(merged_flags(setting, new_keys=False)) - set(setting)
