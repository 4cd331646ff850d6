"""Leases, the provider's side: who holds what of this machine, and until when.

A lease holds its share from the moment it is asked for until its sandbox is really gone, so that
the ceilings bind what runs and not what was promised. Time ends a lease, or the owner, or its
requester; a requester's absence ends it only after the policy's patience.

    waiting ──> creating ──> active ──> ending ──> gone
    (only for sandboxes that are ending)

The driver answers every CreateSandbox with SandboxReady or SandboxFailed, and every EndSandbox
with SandboxEnded (or SandboxFailed, where creation was cut short).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import assert_never

from p2prc.model.identity import JobId, LeaseId, NodeId
from p2prc.model.resources import Capacity, Limits, RuntimeOffer
from p2prc.model.workload import Workload
from p2prc.protocol.fair_share import HELD_AT_LEAST_S, FairShare, part_of
from p2prc.protocol.lease_events import (
    ConfirmEnd,
    CreateSandbox,
    Effect,
    EndSandbox,
    Event,
    Granted,
    LeaseAdopted,
    LeaseEndRequested,
    LeaseRequested,
    OwnerKilled,
    OwnerNeedsMachine,
    Paused,
    PeerGone,
    PeerReturned,
    Refuse,
    Resumed,
    ResumeSandbox,
    SandboxEnded,
    SandboxFailed,
    SandboxReady,
    SuspendSandbox,
    TaskOver,
    TellEnded,
    TermsChanged,
    Tick,
)
from p2prc.protocol.lending import (
    END,
    SUSPEND,
    LendingPolicy,
    Refusal,
    refusal_of,
    select_runtime,
)
from p2prc.protocol.messages import RequestLease
from p2prc.protocol.request_rates import RequestRates

ENDED_REMEMBERED = 1000


class LeaseState(Enum):
    """Where a lease is in its life."""

    WAITING = "waiting"
    CREATING = "creating"
    ACTIVE = "active"
    ENDING = "ending"


@dataclass(frozen=True, slots=True)
class LeaseView:
    """A lease as its owner sees it; instants are of the machine's own clock."""

    lease: LeaseId
    peer: NodeId
    workload: Workload
    job: JobId | None
    is_isolated: bool
    runtime: str
    tier: str
    state: LeaseState
    created_at: float
    expires_at: float
    is_suspended: bool = False


@dataclass(slots=True)
class _Loan:
    peer: NodeId
    request: RequestLease
    runtime: RuntimeOffer
    created_at: float
    expires_at: float
    state: LeaseState
    is_suspended: bool = False

    @property
    def limits(self) -> Limits:
        return self.request.workload.limits


class LeaseBook:
    """Who holds what of this machine, and until when. Never lends more than it has."""

    def __init__(
        self, capacity: Capacity, policy: LendingPolicy, runtimes: tuple[RuntimeOffer, ...]
    ) -> None:
        self._capacity = capacity
        self._policy = policy
        self._runtimes = runtimes
        self._is_paused = False
        self._owner_needs = ""
        self._rates = RequestRates()
        self._fair = FairShare()
        self._loans: dict[LeaseId, _Loan] = {}
        self._gone_at: dict[NodeId, float] = {}
        self._ended: OrderedDict[tuple[NodeId, LeaseId], tuple[str, str]] = OrderedDict()

    @property
    def deadline(self) -> float | None:
        """When `handle` wants a Tick: the first end by time, absence or patience."""
        return min((self._due_at(loan) for loan in self._held()), default=None)

    @property
    def capacity(self) -> Capacity:
        """What is lent over all leases together."""
        return self._capacity

    @property
    def free(self) -> Capacity:
        """What can be lent now."""
        return self._left_beside(self._loans.values())

    @property
    def is_paused(self) -> bool:
        """Whether the owner lends nothing new."""
        return self._is_paused

    @property
    def owner_needs(self) -> str:
        """Why the owner needs the machine at present, "" when it is lent."""
        return self._owner_needs

    def leases(self) -> tuple[LeaseView, ...]:
        """Every lease that holds something, oldest first."""
        return tuple(_view(lease, loan) for lease, loan in self._loans.items())

    def holder_of(self, lease: LeaseId) -> NodeId | None:
        """Return whose lease this is while it takes commands; anyone else must learn nothing."""
        loan = self._loans.get(lease)
        return loan.peer if loan is not None and loan.state is LeaseState.ACTIVE else None

    def end_of(self, peer: NodeId, lease: LeaseId) -> tuple[str, str] | None:
        """Return who ended a lease of this peer and why, as far back as is remembered."""
        return self._ended.get((peer, lease))

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Settle what is overdue, then the event; then lend to those who waited."""
        effects = self._end_overdue(now)
        match event:
            case LeaseRequested():
                effects += self._request(event.peer, event.request, now)
            case LeaseEndRequested():
                effects += self._end_for_requester(event)
            case SandboxReady():
                effects += self._ready(event.lease, now)
            case LeaseAdopted():
                effects += self._adopt(event, now)
            case SandboxFailed():
                effects += self._failed(event)
            case SandboxEnded():
                effects += self._gone(event)
            case OwnerKilled():
                effects += self._kill(event)
            case Paused():
                self._is_paused = True
            case Resumed():
                self._is_paused = False
            case OwnerNeedsMachine():
                effects += self._make_way(event.reason)
            case TaskOver():
                effects += self._share_out(event.lease, now)
            case TermsChanged():
                self._capacity, self._policy = event.capacity, event.policy
                self._runtimes = event.runtimes
                effects += self._make_way(self._owner_needs)
            case PeerGone():
                if any(loan.peer == event.peer for loan in self._loans.values()):
                    self._gone_at.setdefault(event.peer, now)
            case PeerReturned():
                self._gone_at.pop(event.peer, None)
            case Tick():
                pass
            case _:
                assert_never(event)
        return effects + self._start_waiting(now)

    # -- asking for a lease

    def _request(self, peer: NodeId, request: RequestLease, now: float) -> list[Effect]:
        self._gone_at.pop(peer, None)
        if request.lease in self._loans:
            return self._request_again(peer, request, now)
        if (end := self._ended.get((peer, request.lease))) is not None:
            # A request that was delivered late must not bring the lease back to life.
            return [Refuse(peer, request.lease, "lease-ended", end[1])]
        decision = self._decide(peer, request, now)
        if isinstance(decision, Refusal):
            return [Refuse(peer, request.lease, decision.code, decision.message, decision.hint)]
        self._loans[request.lease] = _Loan(
            peer=peer,
            request=request,
            runtime=decision,
            created_at=now,
            expires_at=now + request.workload.limits.lasts_s,
            state=LeaseState.WAITING,
        )
        return []

    def _request_again(self, peer: NodeId, request: RequestLease, now: float) -> list[Effect]:
        loan = self._loans[request.lease]
        if loan.peer != peer:
            # The same words as for a full machine: nobody may find out others' leases.
            return [_busy(peer, request.lease)]
        if loan.request != request:
            message = "this lease was asked for with other terms"
            return [Refuse(peer, request.lease, "invalid-input", message)]
        if loan.state is LeaseState.ACTIVE:
            return [Granted(peer, request.lease, loan.expires_at - now, loan.runtime.tier)]
        if loan.state is LeaseState.ENDING:
            return [Refuse(peer, request.lease, "lease-ended", "the lease is ending")]
        return []

    def _decide(self, peer: NodeId, request: RequestLease, now: float) -> RuntimeOffer | Refusal:
        if not self._rates.is_allowed(peer, self._policy.requests_per_s, now):
            return Refusal("peer-busy", "you ask for leases faster than the owner allows")
        if self._is_paused:
            return Refusal("lending-paused", "the owner lends nothing at present")
        if self._owner_needs:
            return Refusal("lending-paused", f"nothing is lent now: {self._owner_needs}")
        refusal = refusal_of(self._policy, self._capacity, peer, request.workload)
        if refusal is not None:
            return refusal
        runtime = select_runtime(self._policy, self._runtimes, peer, request.workload)
        if isinstance(runtime, Refusal):
            return runtime
        if len(self._loans) >= self._policy.leases_limit or not self._will_fit(request):
            self._turned_away(peer, request, now)
            return Refusal("peer-busy", _BUSY)
        if not self._has_share_left(peer, request.workload.limits):
            return Refusal("peer-busy", "you hold all that one peer may have here")
        holds = self._holds()
        part = self._part_of(peer, request.workload.limits)
        if self._fair.lets_pass(peer, part, holds=holds, now=now):
            self._turned_away(peer, request, now)
            return Refusal("peer-busy", "it is the turn of others here that wait")
        self._fair.served(peer)
        return runtime

    def _turned_away(self, peer: NodeId, request: RequestLease, now: float) -> None:
        self._fair.turned_away(peer, part_of(self._capacity, [request.workload.limits]), now)

    def _holds(self) -> dict[NodeId, float]:
        """Return what part of the machine each peer holds."""
        held: dict[NodeId, list[Limits]] = {}
        for loan in self._held():
            held.setdefault(loan.peer, []).append(loan.limits)
        return {peer: part_of(self._capacity, limits) for peer, limits in held.items()}

    def _part_of(self, peer: NodeId, *more: Limits) -> float:
        held = [loan.limits for loan in self._held() if loan.peer == peer]
        return part_of(self._capacity, [*held, *more])

    def _share_out(self, lease: LeaseId, now: float) -> list[Effect]:
        """End a lease between two tasks where its peer has more than its due and others wait."""
        loan = self._loans.get(lease)
        if loan is None or loan.state is not LeaseState.ACTIVE:
            return []
        if now - loan.created_at < HELD_AT_LEAST_S:
            return []
        if not self._fair.makes_way(loan.peer, holds=self._holds(), now=now):
            return []
        return self._end(lease, "share", "others wait for their part of this machine")

    def _has_share_left(self, peer: NodeId, limits: Limits) -> bool:
        # What is ending counts: the ceilings bind what runs, for one peer as for all.
        held = [loan for loan in self._loans.values() if loan.peer == peer]
        if len(held) >= self._policy.per_peer_leases:
            return False
        left = self._policy.per_peer
        for loan in held:
            left = left.minus(loan.limits)
        return left.fits(limits)

    def _will_fit(self, request: RequestLease) -> bool:
        return self._left_beside(self._held()).fits(request.workload.limits)

    def _start_waiting(self, now: float) -> list[Effect]:
        """Begin what has room now; first come, first served."""
        started: list[Effect] = []
        for lease, loan in self._loans.items():
            if loan.state is not LeaseState.WAITING:
                continue
            beside = (other for other in self._loans.values() if _holds_machine(other))
            if not self._left_beside(beside).fits(loan.limits):
                break
            loan.state = LeaseState.CREATING
            loan.expires_at = now + loan.limits.lasts_s
            started.append(_creation(lease, loan))
        return started

    # -- what became of the sandbox

    def _ready(self, lease: LeaseId, now: float) -> list[Effect]:
        loan = self._loans.get(lease)
        if loan is None or loan.state is not LeaseState.CREATING:
            return []
        loan.state = LeaseState.ACTIVE
        loan.expires_at = now + loan.limits.lasts_s
        granted = Granted(loan.peer, lease, loan.limits.lasts_s, loan.runtime.tier)
        # It was promised before the owner came back.
        return [granted, *self._make_way(self._owner_needs)]

    def _adopt(self, event: LeaseAdopted, now: float) -> list[Effect]:
        lease = event.request.lease
        if lease in self._loans:
            return []
        has_room = self.free.fits(event.request.workload.limits)
        self._loans[lease] = _Loan(
            peer=event.peer,
            request=event.request,
            runtime=event.runtime,
            created_at=now - event.age_s,
            expires_at=now + event.left_s,
            state=LeaseState.ACTIVE,
        )
        if event.left_s <= 0:
            return self._end(lease, "time", "its time is over")
        if not has_room:
            # The ceilings may have been lowered while nobody was there to keep them.
            return self._end(lease, "owner", "this node lends less since it was started anew")
        return self._make_way(self._owner_needs)

    def _failed(self, event: SandboxFailed) -> list[Effect]:
        loan = self._forget(event.lease)
        if loan is None or loan.state is LeaseState.ENDING:
            return []
        return [Refuse(loan.peer, event.lease, event.code, event.reason, event.hint)]

    def _gone(self, event: SandboxEnded) -> list[Effect]:
        loan = self._forget(event.lease)
        if loan is None or loan.state is LeaseState.ENDING:
            return []
        reason = event.reason or "the sandbox is gone"
        ended_by = _ENDED_BY.get(event.code, "lost")
        self._remember_ended(loan.peer, event.lease, ended_by, reason)
        if loan.state is LeaseState.CREATING:
            return [Refuse(loan.peer, event.lease, event.code or "lease-ended", reason)]
        return [TellEnded(loan.peer, event.lease, ended_by, reason)]

    # -- the owner comes and goes

    def _make_way(self, reason: str) -> list[Effect]:
        """Do with the leases what the owner wants while the machine is needed, or undo it."""
        self._owner_needs = reason
        effects: list[Effect] = []
        does = self._policy.when_needed if reason else ""
        for lease, loan in list(self._loans.items()):
            if does == END:
                effects += self._end(lease, "owner", reason)
            elif loan.state is LeaseState.ACTIVE and loan.is_suspended != (does == SUSPEND):
                loan.is_suspended = does == SUSPEND
                effects.append(SuspendSandbox(lease) if loan.is_suspended else ResumeSandbox(lease))
        return effects

    # -- ending

    def _end_for_requester(self, event: LeaseEndRequested) -> list[Effect]:
        self._gone_at.pop(event.peer, None)
        key = (event.peer, event.lease)
        loan = self._loans.get(event.lease)
        if loan is None or loan.peer != event.peer:
            if key in self._ended:
                return [ConfirmEnd(*key)]
            return [Refuse(*key, "lease-unknown", "no lease of yours has this id")]
        was_active = loan.state is LeaseState.ACTIVE
        effects = self._end(event.lease, "requester", "ended by its requester")
        # The answer below is all that the requester needs; a pending request still gets its own.
        told = [effect for effect in effects if not (was_active and isinstance(effect, TellEnded))]
        return [*told, ConfirmEnd(*key)]

    def _kill(self, event: OwnerKilled) -> list[Effect]:
        effects: list[Effect] = []
        for lease, loan in list(self._loans.items()):
            if event.is_all or lease in event.leases or loan.peer == event.peer:
                effects += self._end(lease, "owner", event.reason)
        return effects

    def _end_overdue(self, now: float) -> list[Effect]:
        effects: list[Effect] = []
        for lease, loan in list(self._loans.items()):
            if loan.state is LeaseState.ENDING or self._due_at(loan) > now:
                continue
            if loan.state is LeaseState.WAITING:
                del self._loans[lease]
                effects.append(_busy(loan.peer, lease))
            elif loan.expires_at <= now:
                effects += self._end(lease, "time", "its time is over")
            else:
                effects += self._end(lease, "lost", "its requester was away for too long")
        return effects

    def _end(self, lease: LeaseId, ended_by: str, reason: str) -> list[Effect]:
        loan = self._loans[lease]
        if loan.state is LeaseState.ENDING:
            return []
        self._remember_ended(loan.peer, lease, ended_by, reason)
        if loan.state is LeaseState.WAITING:
            del self._loans[lease]
            return [Refuse(loan.peer, lease, "lease-ended", reason)]
        answer: Effect = TellEnded(loan.peer, lease, ended_by, reason)
        if loan.state is LeaseState.CREATING:
            answer = Refuse(loan.peer, lease, "lease-ended", reason)
        loan.state = LeaseState.ENDING
        return [EndSandbox(lease, ended_by, reason), answer]

    def _remember_ended(self, peer: NodeId, lease: LeaseId, ended_by: str, reason: str) -> None:
        self._ended[peer, lease] = ended_by, reason
        while len(self._ended) > ENDED_REMEMBERED:
            self._ended.popitem(last=False)

    def _forget(self, lease: LeaseId) -> _Loan | None:
        loan = self._loans.get(lease)
        if loan is None or loan.state is LeaseState.WAITING:
            return None
        del self._loans[lease]
        if all(other.peer != loan.peer for other in self._loans.values()):
            self._gone_at.pop(loan.peer, None)
        return loan

    # -- sums and dates

    def _held(self) -> Iterator[_Loan]:
        """Leases that are not ending: what waits is promised the room of what ends."""
        return (loan for loan in self._loans.values() if loan.state is not LeaseState.ENDING)

    def _left_beside(self, loans: Iterable[_Loan]) -> Capacity:
        left = self._capacity
        for loan in loans:
            left = left.minus(loan.limits)
        return left

    def _due_at(self, loan: _Loan) -> float:
        if loan.state is LeaseState.WAITING:
            return loan.created_at + self._policy.patience_s
        gone_at = self._gone_at.get(loan.peer)
        if gone_at is None or (loan.request.has_sessions and loan.request.job is None):
            # A place to work in waits for its requester: its time ends it.
            return loan.expires_at
        return min(loan.expires_at, gone_at + self._policy.absence_of(loan.request.job))


_BUSY = "nothing is free at present"
_ENDED_BY = {"limit-exceeded": "limit", "disk-full": "limit", "timed-out": "time"}


def _holds_machine(loan: _Loan) -> bool:
    return loan.state is not LeaseState.WAITING


def _busy(peer: NodeId, lease: LeaseId) -> Refuse:
    return Refuse(peer, lease, "peer-busy", _BUSY)


def _creation(lease: LeaseId, loan: _Loan) -> CreateSandbox:
    return CreateSandbox(
        lease=lease,
        peer=loan.peer,
        workload=loan.request.workload,
        runtime=loan.runtime.name,
        tier=loan.runtime.tier,
        is_isolated=loan.request.is_isolated,
        has_sessions=loan.request.has_sessions,
        variables=loan.request.variables,
        main=loan.request.main,
        ports=loan.request.ports,
    )


def _view(lease: LeaseId, loan: _Loan) -> LeaseView:
    return LeaseView(
        lease=lease,
        peer=loan.peer,
        workload=loan.request.workload,
        job=loan.request.job,
        is_isolated=loan.request.is_isolated,
        runtime=loan.runtime.name,
        tier=loan.runtime.tier,
        state=loan.state,
        created_at=loan.created_at,
        expires_at=loan.expires_at,
        is_suspended=loan.is_suspended,
    )
