"""The server's ``notify-keyspace-events``: extended for a recording, put back at its end."""

from __future__ import annotations

import redis

from coldcache.record.server import Control

NEEDED_FLAGS = "Exemn$g"  # keyevent channel; expired, evicted, keymiss, new, strings, generic
_ALL = "A"  # stands for every class but m and n


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
