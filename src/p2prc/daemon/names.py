"""From what a person types to what is meant: a name, an id, or a unique prefix of an id."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TypeVar

from p2prc.errors import JobUnknown, LeaseUnknown, NameAmbiguous, NodeUnknown, NotFound, PeerError
from p2prc.model.identity import PREFIX_DIGITS, JobId, LeaseId, NodeId, short
from p2prc.model.likeness import guess
from p2prc.protocol.asking import FINGERPRINT_DIGITS

_SHOWN = 5
Identity = TypeVar("Identity", bound=str)


def find_node(typed: str, names: Mapping[NodeId, str]) -> NodeId:
    """Return the node that is meant. Raises NodeUnknown, NameAmbiguous with what matches.

    Names are chosen by their nodes, so none may look like another's id and be taken for it: what
    is as long as a fingerprint is an id before it is a name, and a name that is also the beginning
    of another's id is ambiguous.
    """
    if typed in names:
        return NodeId(typed)
    prefixed = _with_prefix(typed, names)
    if len(typed) >= FINGERPRINT_DIGITS and len(prefixed) == 1:
        return prefixed[0]
    named = [node for node, name in names.items() if name == typed]
    matches = list(dict.fromkeys([*named, *prefixed]))
    if len(matches) > 1:
        listed = ", ".join(f"{names[node]} ({short(node)})" for node in matches[:_SHOWN])
        raise NameAmbiguous(
            f"`{typed}` may be any of: {listed}", hint="type more of the id: `p2prc nodes`"
        )
    if not matches:
        raise NodeUnknown(
            f"no node is called `{typed[:80]}`",
            hint=guess(typed, names.values(), NodeUnknown.hint),
        )
    return matches[0]


def find_asking(typed: str, names: Mapping[NodeId, str]) -> NodeId:
    """Return who is meant of those that ask: as `find_node`, or by a fingerprint with dashes."""
    digits = typed.replace("-", "").lower()
    if digits == typed:
        return find_node(typed, names)
    by_fingerprint = _with_prefix(digits, names)
    if len(digits) >= FINGERPRINT_DIGITS and len(by_fingerprint) == 1:
        return by_fingerprint[0]
    if by_fingerprint and typed in names.values():
        raise NameAmbiguous(
            f"`{typed[:80]}` is the name of one and the fingerprint of another",
            hint="type the whole fingerprint: `p2prc requests`",
        )
    return find_node(digits if by_fingerprint else typed, names)


def is_node_id(typed: str) -> bool:
    """Whether this is a whole id, of a node known here or not."""
    return re.fullmatch(r"[0-9a-f]{64}", typed) is not None


def find_lease(typed: str, leases: Iterable[LeaseId]) -> LeaseId:
    """Return the lease that is meant. Raises LeaseUnknown, NameAmbiguous."""
    return LeaseId(_find(typed, list(leases), LeaseUnknown(f"no lease here is `{typed[:80]}`")))


def find_container(typed: str, names: Mapping[LeaseId, str], gone: Collection[LeaseId]) -> LeaseId:
    """Return the container of mine that is meant, by its name or as `find_lease` does.

    `names` are in the order in which they were made. A name goes to what is there before what
    is gone, and then to the latest. Raises LeaseUnknown, NameAmbiguous.
    """
    named = [lease for lease, name in names.items() if typed and name == typed]
    there = [lease for lease in named if lease not in gone]
    if len(there) > 1:
        raise NameAmbiguous(
            f"`{typed[:80]}` may be any of: {', '.join(there[:_SHOWN])}",
            hint="type an id: `p2prc ps`",
        )
    if named:
        return (there or named)[-1]
    try:
        return find_lease(typed, names)
    except LeaseUnknown as error:
        there_are = (name for lease, name in names.items() if lease not in gone)
        raise LeaseUnknown(error.message, hint=guess(typed, there_are, "see `p2prc ps`")) from None


def find_job(typed: str, keys: Mapping[JobId, str]) -> JobId:
    """Return the job that is meant by an id, a prefix or a key. Raises `JobUnknown`."""
    for job, key in keys.items():
        if typed == key:
            return job
    unknown = JobUnknown(
        f"no job here is `{typed[:80]}`", hint=guess(typed, keys.values(), JobUnknown.hint)
    )
    return JobId(_find(typed, list(keys), unknown))


def _find(typed: str, known: Sequence[str], unknown: NotFound) -> str:
    matches = [typed] if typed in known else _with_prefix(typed, known)
    if len(matches) > 1:
        raise NameAmbiguous(f"`{typed}` may be any of: {', '.join(matches[:_SHOWN])}")
    if not matches:
        raise unknown
    return matches[0]


def _with_prefix(typed: str, known: Iterable[Identity]) -> list[Identity]:
    if len(typed) < PREFIX_DIGITS:
        return []
    return [identity for identity in known if identity.startswith(typed.lower())]


def as_typed(error: PeerError, peer: NodeId, typed: str) -> PeerError:
    """Return the error with the peer called as the person called it."""
    if is_node_id(typed):
        return error
    return type(error)(error.message.replace(short(peer), typed), hint=error.hint)
