"""Every error a caller can catch, in one tree; imports nothing.

An error is a sentence, a code, a hint and a verdict (is it worth trying again?). The code is a
slug that crosses the control API and the wire between peers, so that both ends raise the same
class. The exit status belongs to the branch of the tree:

    P2prcError                      1  a bug of ours
      InvalidInput                  3
        TicketInvalid  TicketExpired  TicketForeign  TicketVersionUnsupported
        JobInvalid  SettingInvalid  NameAmbiguous  RequirementInvalid  PathInvalid
        AlreadyInNetwork
      NotFound                      4
        NodeUnknown  LeaseUnknown  JobUnknown  FileUnknown  PortClosed
      NotAllowed                    5
        NotMember  Revoked  RequestDenied  RightMissing
        LendingPaused  PolicyRefuses
      PeerError                     6
        PeerUnreachable  PeerLost  PeerBusy  PeerRefused  PeerMisbehaved (WireError)  NotP2prc
        PeerTooOld
        NoNodeMatches
      WorkFailed                    7
        CommandNotFound  OutputConflict  ResultsDiffer  OutputMissing  LeaseEnded  LimitExceeded
        TimedOut  FunctionFailed  UntrustedResult
      MachineCannot                 8
        RuntimeMissing  DiskFull  PortTaken  HomeBusy  HomeUnusable  EnvironmentBroken
      NodeNotRunning                9
"""

from __future__ import annotations


class P2prcError(Exception):
    """Something went wrong that a person should read about."""

    code = "internal"
    hint = ""
    retryable = False
    exit_status = 1

    def __init__(self, message: str = "", *, hint: str | None = None) -> None:
        described = (type(self).__doc__ or "").strip().rstrip(".")
        super().__init__(message or described[:1].lower() + described[1:])
        if hint is not None:
            self.hint = hint

    @property
    def message(self) -> str:
        """One sentence in lower case, without a final period."""
        return str(self.args[0])

    def as_fields(self) -> dict[str, object]:
        """Return the plain facts that cross the API."""
        return {
            "code": self.code,
            "message": self.message,
            "hint": self.hint,
            "retryable": self.retryable,
        }


class InvalidInput(P2prcError):
    """The input is not valid."""

    code = "invalid-input"
    exit_status = 3


class TicketInvalid(InvalidInput):
    """The ticket is damaged or was changed."""

    code = "ticket-invalid"
    hint = "copy the whole line that `p2prc invite` printed"


class TicketExpired(InvalidInput):
    """The ticket has expired."""

    code = "ticket-expired"
    hint = "ask for a new one: `p2prc invite`"


class TicketForeign(InvalidInput):
    """The ticket belongs to another network."""

    code = "ticket-foreign"
    hint = "ask a member of this network for a ticket: `p2prc invite`"


class TicketVersionUnsupported(InvalidInput):
    """The ticket was made by a version that this one cannot read."""

    code = "ticket-version"
    hint = "install the version of p2prc that the inviter runs: `p2prc version`"


class JobInvalid(InvalidInput):
    """The job's description is not valid."""

    code = "job-invalid"


class TemplateInvalid(JobInvalid):
    """The job template is not valid, or asks for what is not supported; says where."""

    code = "template-invalid"


class SceneInvalid(JobInvalid):
    """The scene is no file that the engine can render."""

    code = "scene-invalid"


class SettingInvalid(InvalidInput):
    """A setting has a value that is not valid."""

    code = "setting-invalid"


class NameAmbiguous(InvalidInput):
    """The name or prefix matches more than one."""

    code = "name-ambiguous"
    hint = "type more of the id"


class RequirementInvalid(InvalidInput):
    """A requirement is a name, extras and a version range; nothing else."""

    code = "requirement-invalid"
    hint = "write it like `numpy` or `numpy>=2,<3`"


class PathInvalid(InvalidInput):
    """The path would leave its folder or is not a plain file."""

    code = "path-invalid"


class AlreadyInNetwork(InvalidInput):
    """This node is in a network with other members."""

    code = "already-in-network"
    hint = "leave it first: `p2prc leave`"


class NotFound(P2prcError):
    """There is no such thing."""

    code = "not-found"
    exit_status = 4


class NodeUnknown(NotFound):
    """No node has this name or id."""

    code = "node-unknown"
    hint = "see `p2prc nodes`"


class LeaseUnknown(NotFound):
    """No lease has this id."""

    code = "lease-unknown"
    hint = "see `p2prc leases`"


class JobUnknown(NotFound):
    """No job has this id."""

    code = "job-unknown"
    hint = "see `p2prc jobs`"


class FileUnknown(NotFound):
    """There is no such file."""

    code = "file-unknown"


class PortClosed(NotFound):
    """Nothing listens at that port."""

    code = "port-closed"


class NotAllowed(P2prcError):
    """The request is valid and refused."""

    code = "not-allowed"
    exit_status = 5


class NotMember(NotAllowed):
    """Only members of this network get an answer."""

    code = "not-member"
    hint = "ask a member for a ticket: `p2prc invite`"


class Revoked(NotAllowed):
    """This node was put out of the network."""

    code = "revoked"
    hint = "ask who put it out; a network of its own: `p2prc leave`"


class RequestDenied(NotAllowed):
    """The request to be let in was denied."""

    code = "request-denied"
    hint = "ask a member for a ticket: `p2prc invite`"


class RightMissing(NotAllowed):
    """This member does not have the right to do that."""

    code = "right-missing"
    hint = "ask a member who may: `p2prc invite --admin` passes the right on"


class LendingPaused(NotAllowed):
    """The owner of the node lends nothing at present."""

    code = "lending-paused"
    retryable = True


class PolicyRefuses(NotAllowed):
    """The owner's policy does not lend that."""

    code = "policy-refuses"


class DomainTaken(NotAllowed):
    """Somebody else has that domain."""

    code = "domain-taken"


class PeerError(P2prcError):
    """The peer could not be reached, was lost, is busy or refused."""

    code = "peer-error"
    exit_status = 6


class PeerUnreachable(PeerError):
    """No path leads to the peer."""

    code = "peer-unreachable"
    hint = "see whether it is online: `p2prc nodes`"
    retryable = True


class NoWayIn(PeerError):
    """Nobody outside could reach this node: it has no public address and no relay."""

    code = "no-way-in"
    hint = (
        "switch on UPnP or NAT-PMP in the router and start the node again; "
        "or forward a port of it to this node and say so: `p2prc down`, then "
        "`p2prc up --detach --public HOST:PORT`; "
        "or name a relay: the same with `--relay URL`; "
        "or invite from the same local network alone: `p2prc invite --lan`"
    )


class PeerLost(PeerError):
    """The peer went away."""

    code = "peer-lost"
    hint = "see whether it is back: `p2prc nodes`"
    retryable = True


class PeerBusy(PeerError):
    """The peer has nothing free at present."""

    code = "peer-busy"
    hint = "try later, ask for less, or use `any`"
    retryable = True


class PeerRefused(PeerError):
    """The peer refused."""

    code = "peer-refused"


class PeerMisbehaved(PeerError):
    """The peer sent something that is not allowed."""

    code = "peer-misbehaved"


class WireError(PeerMisbehaved):
    """The bytes are not what was agreed."""

    code = "wire-error"


class NotP2prc(PeerError):
    """Something else than a p2prc node answers there."""

    code = "not-p2prc"
    hint = "see the node's port with `p2prc status` there"


class PeerTooOld(PeerError):
    """The peer's version does not know this request."""

    code = "unsupported"


class NoNodeMatches(PeerError):
    """No node meets what the work needs."""

    code = "no-node-matches"
    hint = "see who is online, and what each offers: `p2prc nodes`"
    retryable = True


class WorkFailed(P2prcError):
    """The work failed."""

    code = "work-failed"
    exit_status = 7


class CommandNotFound(WorkFailed):
    """The command does not exist there."""

    code = "command-not-found"


class OutputConflict(WorkFailed):
    """Two tasks give one output path."""

    code = "output-conflict"
    hint = "put a parameter into the path: `--to 'out/{i}'`"


class ResultsDiffer(WorkFailed):
    """Nodes gave different results of one task, and nobody can say which is right."""

    code = "results-differ"
    hint = "make the work give one result each time, or leave `--verify` out"


class OutputMissing(WorkFailed):
    """An output pattern matches no file."""

    code = "output-missing"


class LeaseEnded(WorkFailed):
    """The lease ended before the work did."""

    code = "lease-ended"


class LimitExceeded(WorkFailed):
    """The work used more than its limit."""

    code = "limit-exceeded"


class TimedOut(WorkFailed):
    """The work took longer than it may."""

    code = "timed-out"


class FunctionFailed(WorkFailed):
    """A function raised an exception at its provider."""

    code = "function-failed"


class UntrustedResult(WorkFailed):
    """The result is not of plain values, and its provider is not trusted."""

    code = "untrusted-result"
    hint = "return plain values or arrays; or say `trust_results=True`: it runs the provider's code"


class MachineCannot(P2prcError):
    """This machine cannot do that."""

    code = "machine-cannot"
    exit_status = 8


class RuntimeMissing(MachineCannot):
    """This machine has no runtime that may run the work."""

    code = "runtime-missing"
    hint = "install bubblewrap: `apt-get install bubblewrap`"


class DiskFull(MachineCannot):
    """The disk or its quota is full."""

    code = "disk-full"
    hint = "free some space and try again"
    retryable = True


class PortTaken(MachineCannot):
    """The port is in use."""

    code = "port-taken"
    hint = "choose another: `p2prc up --listen :0`"


class HomeBusy(MachineCannot):
    """Another node runs in this home."""

    code = "home-busy"
    hint = "use another home: `p2prc --home DIR up`"


class HomeUnusable(MachineCannot):
    """The home folder cannot be used."""

    code = "home-unusable"
    hint = "choose another: `p2prc --home DIR up`"


class EnvironmentBroken(MachineCannot):
    """The virtual environment could not be built."""

    code = "environment-broken"


class NodeNotRunning(P2prcError):
    """No node is running here."""

    code = "node-not-running"
    hint = "start it: `p2prc up --detach`"
    exit_status = 9


def _tree(branch: type[P2prcError]) -> dict[str, type[P2prcError]]:
    found = {branch.code: branch}
    for child in branch.__subclasses__():
        found |= _tree(child)
    return found


BY_CODE = _tree(P2prcError)
"""Every class by its code: the vocabulary that two processes share."""


def from_fields(
    code: str, message: str, *, hint: str = "", otherwise: type[P2prcError] = P2prcError
) -> P2prcError:
    """Rebuild an error that another process told about; an unknown code becomes `otherwise`."""
    return BY_CODE.get(code, otherwise)(message, hint=hint or None)
