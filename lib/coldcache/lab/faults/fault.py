"""What a fault is: which steps it changes, who else acts, and the truth that a diagnosis must find."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from coldcache.lab.actors import Actor
from coldcache.lab.caching import Behaviour, Request
from coldcache.lab.proofs import Proof, reads

HEALTHY = "healthy"
Family = dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One fault, or one healthy look-alike: what is done, and the ground truth.

    cause : id from the vocabulary of causes, or ``healthy``
    title : what goes wrong, in a few words
    families : key families it touches, as the diagnosis names them; empty where it touches all or none
    edit : the exact edit that mends it, ``what is there -> what should be``; None where there is no exact one
    setting : steps that are other than dragon3's usual ones without being a fault: they stay after the repair
    changes : the steps that the fault changes; the repair puts the healthy ones back
    actors : other clients of the server; the repair sends them away
    server : options of the server; the repair leaves them out
    fleets : how many processes share cache and requests
    replica : whether reads go to a read-only replica, which is the server that is recorded
    heap : whether the process's heap is recorded, too
    tolerated : of a look-alike, what may be said of the recording or of INFO's ratio all the same
    proof : counts in the recording how often what this is about happened
    least : how often it must have
    """

    id: str
    cause: str
    title: str
    families: tuple[Family, ...] = ()
    edit: str | None = None
    setting: Mapping[str, Any] = field(default_factory=dict)
    changes: Mapping[str, Any] = field(default_factory=dict)
    actors: tuple[Actor, ...] = ()
    server: tuple[str, ...] = ()
    fleets: int = 1
    replica: bool = False
    heap: bool = False
    tolerated: tuple[str, ...] = ()
    proof: Proof = reads
    least: int = 20

    @property
    def repair_id(self) -> str | None:
        """Id of the fix that a finding must name; None where nothing is to be mended."""
        return None if self.cause == HEALTHY else self.cause

    @property
    def truths(self) -> tuple[Fault, ...]:
        """The faults that a diagnosis must find."""
        return () if self.cause == HEALTHY else (self,)

    def setting_of(self, behaviour: Behaviour) -> Behaviour:
        """Return the analyzer as it is where this happens, without the fault."""
        return replace(behaviour, **self.setting)

    def inject(self, behaviour: Behaviour) -> Behaviour:
        """Return the analyzer with the fault."""
        return replace(behaviour, **self.changes)

    def repair(self, behaviour: Behaviour) -> Behaviour:
        """Return the analyzer with the healthy steps in place of those that the fault changed."""
        healthy = self.setting_of(Behaviour())
        return replace(behaviour, **{step: getattr(healthy, step) for step in self.changes})


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultPair(Fault):
    """Two faults at once: one where images are analysed, the other where thumbnails are made."""

    parts: tuple[Fault, ...]

    @property
    def truths(self) -> tuple[Fault, ...]:
        """Both, each with the families it has left."""
        return self.parts


# Steps that see the request, so that two faults can share them out by its kind.
_BY_REQUEST = frozenset(
    {"before", "read_key", "write_key", "look_up", "decode", "use", "after_hit", "encode", "store", "after_store"}
)


def pair(first: Fault, second: Fault) -> FaultPair:
    """Return two faults at once, the first for analysed images and the second for thumbnails."""
    both = {"img": first, "thumb": second}
    parts = tuple(
        replace(fault, families=tuple(family for family in fault.families if kind in family["reads"]))
        for kind, fault in both.items()
    )
    setting = _shared_out(both, "setting", Behaviour())
    return FaultPair(
        id=f"{first.id}+{second.id}",
        cause=f"{first.cause}+{second.cause}",
        title=f"images: {first.title}; thumbnails: {second.title}",
        setting=setting,
        changes=_shared_out(both, "changes", replace(Behaviour(), **setting)),
        actors=first.actors + second.actors,
        server=first.server + second.server,
        fleets=max(first.fleets, second.fleets),
        heap=first.heap or second.heap,
        proof=lambda recorded: min(int(fault.proof(recorded) / fault.least * 20) for fault in both.values()),
        parts=parts,
    )


def _shared_out(faults: dict[str, Fault], what: str, otherwise: Behaviour) -> dict[str, Any]:
    """Return the steps of both faults, each taken by the requests of one kind where a step sees the request."""
    shared: dict[str, Any] = {}
    for kind, fault in faults.items():
        for step, change in getattr(fault, what).items():
            healthy = shared.get(step, getattr(otherwise, step))
            shared[step] = only(kind, change, healthy) if step in _BY_REQUEST else change
    return shared


def only(kind: str, faulty: Callable[..., Any], healthy: Callable[..., Any]) -> Callable[..., Any]:
    """Return a step that is faulty for the requests of one kind, ``img`` or ``thumb``, and healthy for the others."""

    def step(*arguments: Any) -> Any:
        request = next(argument for argument in arguments if isinstance(argument, Request))
        return (faulty if request.kind == kind else healthy)(*arguments)

    return step


def key(template: str) -> Callable[[Request], str]:
    """Return a step that builds keys of a format of the request, such as ``prod_cache:{0.kind}:{0.digest}``."""
    return template.format


def keys(template: str) -> dict[str, Callable[[Request], str]]:
    """Return steps that read and write the same keys."""
    build = key(template)
    return {"read_key": build, "write_key": build}


def same(*families: str) -> tuple[Family, ...]:
    """Return families that are read and written under one name."""
    return tuple({"reads": family, "writes": family} for family in families)


def met(reads_of: str, writes_of: str) -> tuple[Family, ...]:
    """Return the families of images and thumbnails of two templates with ``{kind}``: what is read, and what is written."""
    return tuple({"reads": reads_of.format(kind=kind), "writes": writes_of.format(kind=kind)} for kind in ("img", "thumb"))


IMG, THUMB = same("prod_cache:img:*"), same("prod_cache:thumb:*")


def by_id(faults: tuple[Fault, ...]) -> dict[str, Fault]:
    """Return faults by their ids.

    Raises
    ------
    ValueError
        Two have the same, or one changes a step that there is not. A bug of the registry.
    """
    named = {fault.id: fault for fault in faults}
    steps = {step.name for step in fields(Behaviour)}
    if len(named) < len(faults) or any(set(fault.changes) | set(fault.setting) > steps for fault in faults):
        raise ValueError("two faults have the same id, or one changes an unknown step")
    return named
