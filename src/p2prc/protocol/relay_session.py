"""A relay for many clients: proves who each is, forwards datagrams between them, and nothing more.

A client is served once it signed our challenge with the key that it claims and whoever accepts
connections has said on which terms. What cannot be delivered at once waits in a bounded queue and
is dropped when that is full: the datagrams are QUIC's, which expects losses. A client above its
rate is not read from for a while, so flooding costs the flooder alone.

After iroh-relay 1.4 (`server/client.rs`, `server/clients.rs`), with bounds it does not have.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from random import Random
from typing import assert_never

from blake3 import blake3

from p2prc.errors import WireError
from p2prc.model.identity import NodeId
from p2prc.protocol import relay_frames as frames
from p2prc.protocol.relay_events import (
    Admitted,
    Ask,
    Blocked,
    Close,
    Closed,
    Connected,
    Hold,
    Line,
    NodeBarred,
    NotAdmitted,
    Received,
    RelayConfig,
    RelayEffect,
    RelayEvent,
    RelayStats,
    RelayTerms,
    Restarting,
    Send,
    Tick,
    Writable,
)
from p2prc.protocol.relay_frames import Status
from p2prc.wire.signed import verify_text


@dataclass(slots=True)
class _Session:
    """One line and what we know of who is at its end. `key` is empty until it is admitted."""

    line: Line
    version: str
    bearer: str
    challenge: bytes
    opened_at: float
    due_at: float
    """When it must have proved its key; later, when it is pinged or given up."""
    key: bytes = b""
    claimed: bytes = b""
    expires_at: float | None = None
    only_to: bytes | None = None
    bytes_per_s: float | None = None
    debt_bytes: float = 0.0
    counted_at: float = 0.0
    heard_at: float = 0.0
    pinged_at: float | None = None
    is_told_of_limit: bool = False
    blocked_at: float | None = None
    queue: deque[bytes] = field(default_factory=deque)
    queued_bytes: int = 0
    sent_to: dict[bytes, None] = field(default_factory=dict)


class RelaySession:
    """One relay. `handle` raises nothing: what a client does wrong ends its line and is counted."""

    def __init__(self, *, rng: Random, config: RelayConfig | None = None) -> None:
        self._rng = rng
        self._config = config or RelayConfig()
        self._lines: dict[Line, _Session] = {}
        self._clients: dict[bytes, list[_Session]] = {}
        """The lines of each admitted client, the active one last."""
        self._refusals: Counter[str] = Counter()
        self._forwarded_packets = 0
        self._forwarded_bytes = 0
        self._dropped = 0
        self._queued_bytes = 0
        self._wake_at: float | None = None

    @property
    def deadline(self) -> float | None:
        """When to call `handle` at the latest."""
        return self._wake_at

    @property
    def stats(self) -> RelayStats:
        """What was done so far."""
        return RelayStats(
            clients=len(self._clients),
            forwarded_packets=self._forwarded_packets,
            forwarded_bytes=self._forwarded_bytes,
            dropped_packets=self._dropped,
            queued_bytes=self._queued_bytes,
            refusals=dict(self._refusals),
        )

    def clients(self) -> list[NodeId]:
        """Return who is served."""
        return [NodeId(key.hex()) for key in self._clients]

    def refused(self, code: str) -> None:
        """Count what was turned away before it became a line."""
        self._refusals[code] += 1

    def handle(self, event: RelayEvent, now: float) -> list[RelayEffect]:
        """Settle what is overdue, then look at the event."""
        effects = self._settle(now) if self._wake_at is not None and now >= self._wake_at else []
        match event:
            case Received():
                effects += self._received(event, now)
            case Blocked():
                self._blocked(event.line, now)
            case Writable():
                effects += self._writable(event.line)
            case Connected():
                effects += self._connected(event, now)
            case Admitted():
                effects += self._admitted(event, now)
            case NotAdmitted():
                effects += self._not_admitted(event)
            case Closed():
                if (session := self._lines.get(event.line)) is not None:
                    effects += self._end(session, event.code, is_gone=True)
            case NodeBarred():
                effects += self._bar(event)
            case Restarting():
                effects += self._announce(event)
            case Tick():
                pass
            case _:
                assert_never(event)
        return effects

    # -- arriving --

    def _connected(self, event: Connected, now: float) -> list[RelayEffect]:
        due_at = now + self._config.handshake_s
        self._lines[event.line] = _Session(
            event.line, event.version, event.bearer, event.challenge, opened_at=now, due_at=due_at
        )
        self._wake_by(due_at)
        return [Send(event.line, [frames.challenge(event.challenge)])]

    def _prove(self, session: _Session, frame: bytes) -> list[RelayEffect]:
        if session.claimed:
            return self._end(session, "early-frame")
        try:
            auth = frames.read_auth(frame)
        except WireError:
            return self._end(session, "malformed")
        message = blake3(session.challenge, derive_key_context=frames.CHALLENGE_CONTEXT).digest()
        try:
            verify_text(auth.key, auth.signature, message)
        except WireError:
            refusal = frames.deny("the signature does not match the key")
            return [Send(session.line, [refusal]), *self._end(session, "bad-signature")]
        session.claimed = auth.key
        return [Ask(session.line, NodeId(auth.key.hex()), session.bearer)]

    def _admitted(self, event: Admitted, now: float) -> list[RelayEffect]:
        session = self._lines.get(event.line)
        if session is None or session.key or not session.claimed:
            return []
        session.key, session.bearer = session.claimed, ""
        self._agree(session, event.terms, now)
        effects: list[RelayEffect] = [Send(session.line, [frames.confirm()])]
        others = self._clients.setdefault(session.key, [])
        if others and others[-1].only_to is None and session.only_to is not None:
            # A newcomer's old line may come back after it has become a member.
            effects += self._say(session, Status.SAME_ID_ELSEWHERE)
            others.insert(0, session)
        else:
            if others:
                effects += self._say(others[-1], Status.SAME_ID_ELSEWHERE)
            others.append(session)
        if len(others) > self._config.lines_per_client:
            effects += self._end(others[0], "too-many-lines")
        return effects

    def _agree(self, session: _Session, terms: RelayTerms, now: float) -> None:
        session.only_to = None if terms.only_to is None else bytes.fromhex(terms.only_to)
        session.bytes_per_s = terms.bytes_per_s
        session.counted_at = session.heard_at = now
        session.due_at = now + self._ping_delay()
        if terms.expires_in_s is not None:
            session.expires_at = now + terms.expires_in_s
            self._wake_by(session.expires_at)
        self._wake_by(session.due_at)

    def _not_admitted(self, event: NotAdmitted) -> list[RelayEffect]:
        session = self._lines.get(event.line)
        if session is None or session.key:
            return []
        refusal = Send(session.line, [frames.deny(event.reason)])
        return [refusal, *self._end(session, event.code)]

    # -- forwarding --

    def _received(self, event: Received, now: float) -> list[RelayEffect]:
        session = self._lines.get(event.line)
        if session is None:
            return []
        effects: list[RelayEffect] = []
        outgoing: dict[Line, list[bytes]] = {}
        session.heard_at, session.pinged_at = now, None
        cost = 0
        for frame in event.frames:
            cost += len(frame) + self._config.frame_cost_bytes
            if not session.key:
                effects += self._prove(session, frame)
            elif (ending := self._carry(session, frame, outgoing)) is not None:
                effects += ending
            if session.line not in self._lines:
                break
        effects += [Send(line, ready) for line, ready in outgoing.items() if line in self._lines]
        return effects + self._charge(session, cost, now)

    def _carry(
        self, session: _Session, frame: bytes, outgoing: dict[Line, list[bytes]]
    ) -> list[RelayEffect] | None:
        """Do what one frame asks for; return how the line ends when it is not a frame."""
        try:
            said = frames.read_frame(frame)
        except WireError:
            return self._end(session, "malformed")
        match said:
            case frames.Datagrams():
                self._forward(session, said, outgoing)
            case frames.Ping():
                self._queue(session, frames.pong(said.content), outgoing)
            case frames.Pong():
                pass
            case _:
                assert_never(said)
        return None

    def _forward(
        self, session: _Session, sent: frames.Datagrams, outgoing: dict[Line, list[bytes]]
    ) -> None:
        target = self._target(session, sent.destination)
        if target is None:
            return
        packet = frames.received(session.key, sent)
        if not self._queue(target, packet, outgoing):
            return
        self._forwarded_packets += 1
        self._forwarded_bytes += len(packet)
        if len(session.sent_to) < self._config.destinations_remembered:
            session.sent_to[sent.destination] = None

    def _target(self, session: _Session, destination: bytes) -> _Session | None:
        """Return the line of the destination, when the two may talk and it is there."""
        if session.only_to is not None and session.only_to != destination:
            self._refusals["guest-elsewhere"] += 1
            return None
        lines = self._clients.get(destination)
        if not lines:
            self._dropped += 1
            return None
        target = lines[-1]
        if target.only_to is not None and target.only_to != session.key:
            self._refusals["not-for-guest"] += 1
            return None
        return target

    def _queue(self, target: _Session, frame: bytes, outgoing: dict[Line, list[bytes]]) -> bool:
        """Take the frame for delivery, now or later; False when it had to be dropped."""
        if target.blocked_at is None:
            outgoing.setdefault(target.line, []).append(frame)
            return True
        config, size = self._config, len(frame)
        if (
            len(target.queue) >= config.queue_packets
            or target.queued_bytes + size > config.queue_bytes
            or self._queued_bytes + size > config.queues_bytes
        ):
            self._dropped += 1
            return False
        target.queue.append(frame)
        target.queued_bytes += size
        self._queued_bytes += size
        return True

    def _charge(self, session: _Session, cost: int, now: float) -> list[RelayEffect]:
        """Write what was read to the client's account; above its rate it has to wait."""
        rate = session.bytes_per_s
        if rate is None or session.line not in self._lines:
            return []
        paid = max(0.0, now - session.counted_at) * rate
        session.debt_bytes = max(0.0, session.debt_bytes - paid) + cost
        session.counted_at = now
        excess = session.debt_bytes - rate * self._config.burst_s
        if excess <= 0:
            return []
        # What is not read cannot be heard: the wait is not silence.
        session.heard_at = now + excess / rate
        effects: list[RelayEffect] = [Hold(session.line, excess / rate)]
        if not session.is_told_of_limit:
            session.is_told_of_limit = True
            self._refusals["rate-limited"] += 1
            effects += self._say(session, Status.RATE_LIMITED)
        return effects

    def _blocked(self, line: Line, now: float) -> None:
        session = self._lines.get(line)
        if session is not None and session.blocked_at is None:
            session.blocked_at = now
            self._wake_by(now + self._config.stall_s)

    def _writable(self, line: Line) -> list[RelayEffect]:
        session = self._lines.get(line)
        if session is None or session.blocked_at is None:
            return []
        session.blocked_at = None
        return [Send(line, self._emptied(session))] if session.queue else []

    def _emptied(self, session: _Session) -> list[bytes]:
        waiting = list(session.queue)
        session.queue.clear()
        self._queued_bytes -= session.queued_bytes
        session.queued_bytes = 0
        return waiting

    # -- ending --

    def _end(self, session: _Session, code: str, *, is_gone: bool = False) -> list[RelayEffect]:
        """Forget a line, count why, and tell whoever should know."""
        del self._lines[session.line]
        self._emptied(session)
        if code:
            self._refusals[code] += 1
        effects: list[RelayEffect] = [] if is_gone else [Close(session.line)]
        lines = self._clients.get(session.key)
        if not session.key or lines is None:
            return effects
        was_active = lines[-1] is session
        lines.remove(session)
        if lines:
            lines[-1].sent_to |= session.sent_to
            return effects + (self._say(lines[-1], Status.HEALTHY) if was_active else [])
        del self._clients[session.key]
        gone = frames.endpoint_gone(session.key)
        for peer in session.sent_to:
            if others := self._clients.get(peer):
                effects += self._tell(others[-1], gone)
        return effects

    def _bar(self, event: NodeBarred) -> list[RelayEffect]:
        effects: list[RelayEffect] = []
        for session in list(self._clients.get(bytes.fromhex(event.node), ())):
            effects += self._end(session, event.reason)
        return effects

    def _announce(self, event: Restarting) -> list[RelayEffect]:
        notice = frames.restarting(reconnect_in_s=event.reconnect_in_s, try_for_s=event.try_for_s)
        sessions = list(self._lines.values())
        effects: list[RelayEffect] = [Send(one.line, [notice]) for one in sessions if one.key]
        for session in sessions:
            self._emptied(session)
            effects.append(Close(session.line))
        self._lines.clear()
        self._clients.clear()
        return effects

    def _say(self, session: _Session, state: Status) -> list[RelayEffect]:
        frame = frames.status(state, version=session.version)
        return [] if frame is None else self._tell(session, frame)

    def _tell(self, session: _Session, frame: bytes) -> list[RelayEffect]:
        ready: dict[Line, list[bytes]] = {}
        self._queue(session, frame, ready)
        return [Send(line, found) for line, found in ready.items()]

    # -- time --

    def _settle(self, now: float) -> list[RelayEffect]:
        """Do what is due on any line, and find out when the next is."""
        effects: list[RelayEffect] = []
        for session in list(self._lines.values()):
            if session.line in self._lines:
                effects += self._check(session, now)
        self._wake_at = min(map(self._next_check, self._lines.values()), default=None)
        return effects

    def _check(self, session: _Session, now: float) -> list[RelayEffect]:
        if session.expires_at is not None and now >= session.expires_at:
            return self._end(session, "expired")
        stalled_since = session.blocked_at
        if stalled_since is not None and now >= stalled_since + self._config.stall_s:
            return self._end(session, "never-reads")
        if now < session.due_at:
            return []
        if not session.key:
            return self._end(session, "half-handshake")
        return self._check_life(session, now)

    def _check_life(self, session: _Session, now: float) -> list[RelayEffect]:
        """Ping who was silent; end the line of who does not answer."""
        if session.pinged_at is not None:
            return self._end(session, "silent")
        if now < session.heard_at + self._config.ping_every_s:
            session.due_at = session.heard_at + self._ping_delay()
            return []
        session.pinged_at = now
        session.due_at = now + self._config.silence_s
        return self._tell(session, frames.ping(self._rng.randbytes(frames.PING_BYTES)))

    def _next_check(self, session: _Session) -> float:
        due_at = session.due_at
        if session.expires_at is not None:
            due_at = min(due_at, session.expires_at)
        if session.blocked_at is not None:
            due_at = min(due_at, session.blocked_at + self._config.stall_s)
        return due_at

    def _ping_delay(self) -> float:
        return self._config.ping_every_s + self._rng.uniform(1.0, self._config.ping_jitter_s)

    def _wake_by(self, at: float) -> None:
        self._wake_at = at if self._wake_at is None else min(self._wake_at, at)
