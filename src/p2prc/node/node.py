"""A live node: the rooms below, joined together. Opened by `open_node`, closed by leaving it.

What happens here is only routing: letters go to the machine that understands them, and links that
come and go are told to everybody who cares.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from random import Random

from p2prc.authority import Member, verify_chain
from p2prc.egress.bridge import Bridges
from p2prc.egress.dialing import Internet, RealInternet
from p2prc.errors import MachineCannot, P2prcError
from p2prc.model.identity import NodeId
from p2prc.model.resources import Capacity, RuntimeOffer
from p2prc.node.bulk import Bulk
from p2prc.node.carriage import Carriages
from p2prc.node.clocks import clock_skews_s, tell_clock
from p2prc.node.collector import Collector, OwnerRules
from p2prc.node.containers import Containers
from p2prc.node.domain_door import DomainDoor
from p2prc.node.door import Door
from p2prc.node.egress import WaysOut
from p2prc.node.exposures import Exposures
from p2prc.node.forwards import Forwards
from p2prc.node.framed import FramedStream
from p2prc.node.gateway import Gateway
from p2prc.node.grants import Grants
from p2prc.node.handshake import Knock
from p2prc.node.history import History
from p2prc.node.host_ports import HostPorts
from p2prc.node.images import ImageDesk
from p2prc.node.inside import Inside
from p2prc.node.inviting import Inviting
from p2prc.node.jobs import Jobs
from p2prc.node.joining import Joining
from p2prc.node.kept_leases import KeptLeases
from p2prc.node.link import Answer
from p2prc.node.links import Links
from p2prc.node.machine import read_specs
from p2prc.node.neighbours import Neighbours, OpenLan
from p2prc.node.network import Network
from p2prc.node.own_record import Lent, OwnRecord, SelfDescription
from p2prc.node.pictures import Pictures
from p2prc.node.places import Places
from p2prc.node.post import Post
from p2prc.node.provider import Provider
from p2prc.node.reachability import ReachConfig, ReachDriver
from p2prc.node.runs import Runs
from p2prc.node.serving_containers import ServingContainers
from p2prc.node.session import serve_session
from p2prc.node.shelf import AttemptShelf
from p2prc.node.ssh import SshDoor
from p2prc.node.standing import Standing
from p2prc.node.tasks import Tasks
from p2prc.node.volumes import VolumeStore, answer_about
from p2prc.plugins.hooks import HookSet
from p2prc.protocol.egress import BRIDGE
from p2prc.protocol.egress import NONE as NO_NETWORK
from p2prc.protocol.leases import LeaseBook
from p2prc.protocol.lending import NO_ISOLATION, LendingPolicy, may_run_bare
from p2prc.protocol.membership import NodeView
from p2prc.protocol.messages import (
    LEDGERS_SINCE_VERSION,
    Announce,
    AskClock,
    AskImages,
    AskJob,
    AskSpecs,
    AskVolumes,
    Branches,
    Call,
    Control,
    Delta,
    DialService,
    Digest,
    Done,
    EndMapping,
    Entries,
    EraseVolume,
    ForwardAsk,
    Join,
    KeepJob,
    LeaseEnded,
    LeaseProgress,
    Leaves,
    LookAtMe,
    NoticeList,
    Notices,
    NoticeSummary,
    OpenMapping,
    ProbeMe,
    ReadLedger,
    Refused,
    Rumour,
    SeenAt,
    SeenBeside,
    Session,
    Specs,
    SucceedCoordinator,
    Summary,
    SyncLedger,
    TakeConnection,
    TakeImage,
    VolumeKept,
    Volumes,
    Want,
    WithdrawAsk,
)
from p2prc.protocol.placement import NodeOffer
from p2prc.relay.server import RelayServer
from p2prc.runtime.environments import EnvironmentStore
from p2prc.runtime.images import ImageShelf
from p2prc.runtime.port import Runtime
from p2prc.storage.blobs import BlobStore
from p2prc.storage.state import State
from p2prc.transport.port import Endpoint, Stream

PAUSED = "paused"
_TRY_BRIDGE_S = 60.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Adapters:
    """What touches the world, made by the daemon."""

    endpoint: Endpoint
    runtime: Runtime
    environments: EnvironmentStore
    blobs: BlobStore
    state: State
    leases_folder: Path
    rng: Random
    reach: ReachConfig = field(default_factory=ReachConfig)
    keeps_leases: bool = True
    """Whether leases with sessions of the life before go on."""
    images: ImageShelf | None = None
    """Images for containers; None where there is no engine."""
    internet: Internet | None = None
    """What the proxies of leases connect to; None: what this machine can reach."""
    certificates: Path | None = None
    """The folder of those that are ordered for domains; None: none are."""
    open_lan: OpenLan | None = None
    """Finds nodes on the local network; None: nobody is looked for there."""
    hooks: HookSet = field(default_factory=HookSet)
    """Plugins of the owner's."""


class Node:
    """Routes between the parts of a live node; `open_node` makes one."""

    def __init__(
        self,
        secret: bytes,
        description: SelfDescription,
        policy: LendingPolicy,
        *,
        adapters: Adapters,
        tasks: Tasks,
        founds_open: bool = False,
    ) -> None:
        self._terms = (description.lent, policy)
        self.id = adapters.endpoint.node
        self.started_at = asyncio.get_running_loop().time()
        self.runtimes: tuple[RuntimeOffer, ...] = description.runtimes
        self.blobs = adapters.blobs
        self.state = adapters.state
        self.environments = adapters.environments
        self._adapters = adapters
        self._tasks = tasks
        self.relay: RelayServer | None = None
        """What we serve to others, when we do."""
        self._is_stopped = False
        self._specs_wanted: list[Answer | None] = []
        self.grants = Grants()
        self.links = Links(adapters.endpoint, self, tasks)
        self.post = Post(self.id, self.links, self.letter)
        self.bulk = Bulk(secret, self.id, self.links, adapters.blobs, self.grants)
        self.images = ImageDesk(
            self.id,
            adapters.images,
            blobs=adapters.blobs,
            bulk=self.bulk,
            grants=self.grants,
            post=self.post,
            tasks=tasks,
        )
        self.network = Network(
            secret,
            self.id,
            OwnRecord(secret, self.id, description, state=adapters.state, lent=self._lent),
            links=self.links,
            state=adapters.state,
            tasks=tasks,
            rng=adapters.rng,
            changed=self._node_changed,
            entered=self._entered,
            put_out=self._put_out,
            is_open=founds_open,
        )
        self.reach = ReachDriver(
            adapters.reach,
            endpoint=adapters.endpoint,
            links=self.links,
            network=self.network,
            tasks=tasks,
        )
        self.neighbours = Neighbours(
            adapters.open_lan,
            endpoint=adapters.endpoint,
            links=self.links,
            network=self.network,
            tasks=tasks,
        )
        self.inviting = Inviting(self.network, secret)
        self.joining = Joining(self.network, self.links, self.reach.borrow)
        self.door = Door(
            links=self.links,
            tasks=tasks,
            standing=self.standing,
            make_chain=self.inviting.make_chain,
            needs_person=self.network.was_put_out,
            admins=self.inviting.admins,
            hooks=adapters.hooks,
        )
        self.volumes = VolumeStore(
            adapters.leases_folder.parent / "volumes", lambda: self._terms[0].disk_bytes
        )
        internet = adapters.internet or RealInternet(known=self._own_hosts)
        self.bridges = Bridges(adapters.leases_folder.parent, internet.own_networks)
        self._is_trying_again = False
        self.bridge_trouble = ""
        """Why the network `bridge` cannot be lent although the owner allows it."""
        self.provider = Provider(
            book=LeaseBook(description.lent, policy, description.runtimes),
            places=Places(
                runtime=adapters.runtime,
                environments=adapters.environments,
                blobs=adapters.blobs,
                folder=adapters.leases_folder,
                obtain=self.bulk.obtain_inputs,
                ways_out=WaysOut(internet, lambda: self._terms[1].egress, self.bridges),
                volumes=self.volumes,
            ),
            blobs=adapters.blobs,
            shelf=AttemptShelf(adapters.state),
            history=History(adapters.state),
            kept=KeptLeases(adapters.state),
            grants=self.grants,
            post=self.post,
            tasks=tasks,
            capacity_changed=self.network.record_changed,
            lends=policy.lends_at_all,
        )
        self.owner_rules = OwnerRules()
        self.collector = Collector(self.provider, lambda: self.owner_rules)
        self.carriages = Carriages()
        self.serving_containers = ServingContainers(
            self.provider.place_of, self.carriages, SshDoor(secret).serve
        )
        self.inside = Inside(self.id, self.links, self.session, tasks)
        self.host_ports = HostPorts(self.carriages)
        self.forwards = Forwards(self.inside, adapters.state)
        self.gateway = Gateway(
            self.id,
            self.inside,
            adapters.state,
            hosts=self._public_hosts,
            is_put_out=self.network.is_put_out,
        )
        self.domain_door = DomainDoor(self.gateway, folder=adapters.certificates)
        self.exposures = Exposures(
            self.inside,
            adapters.state,
            self.post,
            tasks=tasks,
            carriages=self.carriages,
            widen=self.links.widen,
            gateways=self._gateways,
        )
        self.runs = Runs(
            own=self.id,
            post=self.post,
            links=self.links,
            provider=self.provider,
            bulk=self.bulk,
            grants=self.grants,
            offers=self.offers,
            rng=adapters.rng,
            hooks=adapters.hooks,
        )
        self.containers = Containers(state=adapters.state, post=self.post, runs=self.runs)
        self.jobs = Jobs(
            state=adapters.state,
            blobs=adapters.blobs,
            bulk=self.bulk,
            grants=self.grants,
            post=self.post,
            tasks=tasks,
            offers=self.offers,
            rng=adapters.rng,
            own=self.id,
            secret=secret,
            keeps_for=self._keeps_for,
            could_keep=self._could_keep,
            pictures=Pictures(self.id, self.runs, adapters.blobs),
            hooks=adapters.hooks,
        )

    async def take_up(self) -> None:
        """Go on with what still runs of the life before, before anything new is lent."""
        await self.provider.take_up(keeps=self._adapters.keeps_leases)

    def start(self) -> None:
        """Take up what the last run left and begin to listen."""
        self.provider.start()
        if self._adapters.state.value(PAUSED) is not None:
            self.provider.pause()
        self.network.start()
        self.reach.start()
        self.neighbours.start()
        self._tasks.start(self.links.run(), "accept")
        self._tasks.start(self.collector.run(), "collect")
        self.jobs.start()
        self.containers.start()
        self._tasks.start(self.forwards.start(), "forwards")
        self._tasks.start(self.gateway.run(), "gateway")
        self._tasks.start(self.domain_door.run(), "domains")
        self.exposures.start()

    async def stop(self) -> None:
        """End leases, say goodbye, close everything. A second time does nothing."""
        if self._is_stopped:
            return
        self._is_stopped = True
        try:
            self.jobs.stop()
            await self.forwards.stop()
            await self.domain_door.stop()
            await self.gateway.stop()
            await self.provider.close()
            await self.bridges.close()
            self.reach.stop()
            self.network.stop()
            await self.links.leave_all(farewell=True)
            await asyncio.gather(self.reach.close(), self.neighbours.close())
            await self._adapters.endpoint.close()
        finally:
            self._tasks.stop_all()

    def pause(self) -> None:
        """Lend nothing new, after a restart neither, until resumed. Raises DiskFull."""
        self.provider.pause()
        self._adapters.state.set_values({PAUSED: b"1"})

    def resume(self) -> None:
        """Lend again."""
        self._adapters.state.set_values({PAUSED: None})
        self.provider.resume()

    # -- what others ask of the node's picture --

    def offers(self) -> list[NodeOffer]:
        """Return what each node offers, as placement wants it."""
        return [self._offer(view) for view in self.network.nodes()]

    def _offer(self, view: NodeView) -> NodeOffer:
        record = view.record
        is_self = record.node == self.id
        link = self.links.get(record.node)
        return NodeOffer(
            node=record.node,
            name=record.name,
            is_reachable=is_self or view.state in ("alive", "suspect"),
            is_lending=self.provider.is_lending if is_self else record.is_lending,
            lent=record.lent,
            free=self.provider.free if is_self else record.free,
            runtimes=record.runtimes,
            python=record.python,
            platform=record.platform,
            latency_s=0.0 if is_self else (link.latency_s if link else None),
        )

    def _keeps_for(self, peer: NodeId) -> bool:
        """Whether a job of the peer may be kept here: as far as the owner lends to it now."""
        return self.provider.is_lending and self.policy.lends_to_peer(peer)

    def _could_keep(self) -> list[NodeId]:
        """Return the other nodes that are there, and know what keeping a job is."""
        return [
            view.record.node
            for view in self.network.nodes()
            if not view.is_self
            and view.state in ("alive", "suspect")
            and view.record.protocol >= LEDGERS_SINCE_VERSION
        ]

    def name_of(self, node: NodeId) -> str:
        """Return what a node calls itself, "" when it is not known."""
        record = self.network.gossip.record_of(node)
        return "" if record is None else record.name

    async def specs(self, node: NodeId) -> Specs:
        """Ask a node what machine it is. Raises PeerError."""
        return await self.post.ask(node, AskSpecs(), Specs)

    async def volumes_at(self, node: NodeId) -> tuple[VolumeKept, ...]:
        """Ask a node which volumes it keeps for this one. Raises PeerError."""
        return (await self.post.ask(node, AskVolumes(), Volumes)).kept

    async def erase_volume(self, node: NodeId, name: str) -> None:
        """Have a node erase a volume of ours. Raises PeerError, NotFound, PeerBusy."""
        await self.post.ask(node, EraseVolume(name), Done)

    async def clock_skews_s(self) -> tuple[float, ...]:
        """Return by how many seconds the clocks of some linked peers are ahead of ours."""
        links = (self.links.get(peer) for peer in self.links.peers())
        return await clock_skews_s(link for link in links if link is not None)

    def _lent(self) -> Lent:
        return Lent(self.provider.is_lending, self.provider.free)

    def _node_changed(self, node: NodeId) -> None:
        self.jobs.offers_changed()
        self.reach.table_changed()
        record = self.network.gossip.record_of(node)
        if record is not None and record.has_left and node != self.id:
            self.provider.evict(node, "left the network")

    # -- whom we lend to, and whom we know no longer --

    @property
    def unforeseen(self) -> int:
        """How many bugs work for single peers has met since the node started."""
        return self._tasks.unforeseen + self.neighbours.unforeseen

    @property
    def policy(self) -> LendingPolicy:
        """What the owner lends to whom at present, in the network that we are in."""
        policy = replace(self._terms[1], bridge_trouble=self.bridge_trouble)
        if self.network.standing.member.is_open:
            # Anybody may come in here: what isolates nothing is for this node's own work.
            return replace(
                policy,
                trusted=policy.trusted & {self.id},
                host_access=policy.host_access & {self.id},
            )
        return policy

    def change_owner_rules(self, rules: OwnerRules) -> None:
        """Know from now on when the owner needs the machine."""
        self.owner_rules = rules
        self.collector.rules_changed()

    def _own_hosts(self) -> list[str]:
        """Return the hosts of our addresses as others see them: a router's outside is one."""
        told = self.network.told.whereabouts.addresses
        return [address.rpartition(":")[0].strip("[]") for address in told]

    def change_terms(self, lent: Capacity, policy: LendingPolicy) -> None:
        """Lend by other rules from now on; leases of whom they exclude end at once."""
        self._terms = (lent, policy)
        if BRIDGE in policy.networks:
            self.bridge_trouble = self.bridge_trouble or "its rules are being tried, ask again"
            self._tasks.start(self.try_bridge(), "try the bridge's rules")
        self.network.told.description = replace(self.network.told.description, lent=lent)
        self._apply_terms()
        can_isolate = any(offer.tier != NO_ISOLATION for offer in self.runtimes)
        for view in self.provider.leases():
            if view.tier == NO_ISOLATION and not may_run_bare(
                self.policy, view.peer, can_isolate=can_isolate
            ):
                reason = "the owner of the node has taken back host access"
                self.provider.evict_lease(view.lease, reason)
        for peer in {view.peer for view in self.provider.leases()}:
            if not policy.lends_to_peer(peer):
                self.provider.evict(peer, "the owner of the node lends to you no longer")
        self.network.record_changed()

        self._end_networks()

    def _end_networks(self) -> None:
        """End leases whose network the owner lends no longer."""
        for view in self.provider.leases():
            if (network := view.workload.network) not in self.policy.networks | {NO_NETWORK}:
                reason = f"the owner of the node lends the network `{network}` no longer"
                self.provider.evict_lease(view.lease, reason)

    async def try_bridge(self) -> None:
        """Find out whether the network `bridge` can be lent, where the owner allows it."""
        if BRIDGE not in self._terms[1].networks:
            self.bridge_trouble = ""
            self._end_networks()
            return
        before, self.bridge_trouble = self.bridge_trouble, await self.bridges.trouble()
        if self.bridge_trouble and self.bridge_trouble != before:
            log.warning("no bridge can be lent", extra={"reason": self.bridge_trouble})
        if self.bridge_trouble and not self._is_trying_again:
            self._is_trying_again = True
            self._tasks.start(self._try_bridge_again(), "try the bridge's rules again")
        self._apply_terms()
        self._end_networks()

    async def _try_bridge_again(self) -> None:
        """Look now and then whether what was in the way is still there."""
        while self.bridge_trouble:
            await asyncio.sleep(_TRY_BRIDGE_S)
            await self.try_bridge()
        self._is_trying_again = False

    def _apply_terms(self) -> None:
        lent, _ = self._terms
        self.provider.change_terms(lent, self.policy, self.runtimes)

    def _entered(self) -> None:
        self._apply_terms()
        if self.relay is not None:
            # Whom we admitted was a member of another network.
            self.relay.drop(self.relay.clients())

    def _put_out(self) -> None:
        """Somebody was put out: end what it and those it let in have here."""
        for member in self.links.members():
            if self.network.revocations.revoker_of(member) is not None:
                self._dismiss(member.node)
        for view in self.provider.leases():
            if view.peer != self.id and self.network.is_put_out(view.peer):
                self.provider.evict(view.peer, "put out of the network")
        if self.relay is not None:
            self.relay.drop([who for who in self.relay.clients() if not self._is_known(who)])
        self.network.gossip.members_barred()
        self.jobs.offers_changed()

    def _is_known(self, node: NodeId) -> bool:
        """Whether we know it for a member; a relay's client that we do not know may ask again."""
        return self.network.member_of(node) is not None and not self.network.is_put_out(node)

    def _dismiss(self, peer: NodeId) -> None:
        self.provider.evict(peer, "put out of the network")
        self.links.dismiss(peer, "put out of the network")

    def judge(self, member: Member) -> None:
        self.network.judge(member)

    async def knocked(self, knock: Knock) -> None:
        await self.door.knocked(knock)

    def seen_afresh(self, peer: NodeId, address: str) -> None:
        self.reach.seen_afresh(peer, address)

    # -- what the links tell us --

    def standing(self) -> Standing:
        return self.network.standing

    def admit(self, joiner: NodeId, request: Join) -> bytes:
        return self.inviting.admit(joiner, request)

    def addresses_of(self, peer: NodeId) -> tuple[str, ...]:
        record = self.network.gossip.record_of(peer)
        if record is not None:
            self.judge(verify_chain(record.membership, network=record.network))
        return () if record is None else record.addresses

    def relays_of(self, peer: NodeId) -> tuple[str, ...]:
        record = self.network.gossip.record_of(peer)
        return () if record is None else self.reach.relays.ways_by(record.relays)

    async def ready_relays(self, relays: Sequence[str]) -> tuple[str, ...]:
        return await self.reach.ready_relays(relays)

    def link_up(self, peer: NodeId) -> None:
        self.network.link_up(peer)
        self.reach.link_up(peer)
        self.provider.peer_back(peer)
        self.runs.node_back(peer)
        self.containers.node_back(peer)
        self.jobs.node_back(peer)

    def link_down(self, peer: NodeId, *, on_purpose: bool) -> None:
        log.info("peer gone", extra={"peer": peer, "on_purpose": on_purpose})
        self.network.link_down(peer, on_purpose=on_purpose)
        self.reach.link_down(peer)
        self.door.door_lost(peer)
        self.provider.peer_gone(peer)
        self.jobs.node_lost(peer)

    def link_renewed(self, peer: NodeId) -> None:
        self.reach.link_up(peer)
        # What was said over the old link may be lost, and the peer may have forgotten everything.
        self.runs.node_back(peer)
        self.containers.node_back(peer)
        self.jobs.node_lost(peer)

    def letter(self, peer: NodeId, body: Control, answer: Answer | None) -> None:
        """Hand a letter to whoever understands it; nobody: `unsupported`."""
        try:
            self._route(peer, body, answer)
        except MachineCannot as error:
            # A full disk here is our trouble: the peer keeps its link and is told.
            log.warning("a letter could not be taken", extra={"peer": peer, "why": error.message})
            if answer is not None:
                answer(_refusal(error))

    def _route(self, peer: NodeId, body: Control, answer: Answer | None) -> None:
        match body:
            case (
                Digest()
                | Delta()
                | Rumour()
                | Announce()
                | Summary()
                | Branches()
                | Leaves()
                | Entries()
                | Want()
                | Call()
            ):
                self.network.gossip.heard(peer, body)
            case NoticeSummary() | NoticeList() | Notices():
                self.network.revocations.heard(peer, body)
            case ForwardAsk():
                if answer is not None:
                    self.door.forwarded(peer, body, answer)
            case WithdrawAsk():
                self.door.withdrawn(peer, body.joiner)
            case LeaseProgress():
                if not self.runs.progress(body.lease, body.text):
                    self.jobs.progress(peer, body.lease, body.text)
            case LeaseEnded():
                if not self.containers.ended(peer, body):
                    self.jobs.letter(peer, body)
            case SeenAt():
                self.reach.seen_at(peer, body)
            case ProbeMe():
                if answer is not None:
                    self.reach.probe_asked(peer, body, answer)
            case SeenBeside():
                self.reach.seen_beside(peer, body)
            case LookAtMe():
                if answer is not None:
                    self.reach.look_asked(peer, answer)
            case AskClock():
                if answer is not None:
                    answer(tell_clock())
            case AskImages() | TakeImage():
                if answer is not None:
                    self.images.letter(peer, body, answer)
            case AskVolumes() | EraseVolume():
                if answer is not None:
                    self._tasks.start(answer_about(self.volumes, peer, body, answer), "volumes")
            case AskSpecs():
                self._ask_for_specs(answer)
            case KeepJob() | SyncLedger() | AskJob() | ReadLedger():
                if answer is not None:
                    self.jobs.asked(peer, body, answer)
            case OpenMapping() | EndMapping():
                if answer is not None:
                    self._tasks.start_for_peer(
                        self.gateway.answer(peer, body, answer), "a public port"
                    )
            case SucceedCoordinator():
                self.provider.succeed(peer, body)
            case _:
                if self.provider.letter(peer, body, answer) or self.jobs.letter(peer, body):
                    return
                if answer is not None:
                    answer(Refused("unsupported", "this node does not know that request"))

    async def session(self, peer: NodeId, stream: Stream) -> None:
        await serve_session(peer, stream, self.provider.run, self._serve_inside)

    async def _serve_inside(
        self, peer: NodeId, framed: FramedStream[Session], request: Session
    ) -> None:
        if isinstance(request, DialService):
            await self.host_ports.serve(peer, framed, request)
        elif isinstance(request, TakeConnection):
            await self.exposures.serve(peer, framed, request)
        else:
            await self.serving_containers.serve(peer, framed, request)

    def _gateways(self) -> list[NodeId]:
        """Return who may lend public ports: who is there, those with public addresses first."""
        views = [
            view for view in self.network.nodes() if not view.is_self and view.state == "alive"
        ]
        views.sort(key=lambda view: (not view.record.is_public, not view.is_connected))
        return [view.record.node for view in views]

    def _public_hosts(self) -> tuple[str, ...]:
        """Return the hosts by which this node believes to be reached."""
        found = next((view.record for view in self.network.nodes() if view.is_self), None)
        addresses = () if found is None else found.addresses
        return tuple(dict.fromkeys(each.rpartition(":")[0] for each in addresses))

    async def serve_bulk(self, peer: NodeId, stream: Stream) -> None:
        await self.bulk.serve(peer, stream, carry_on=partial(self.carriages.carry_on, peer))

    def _ask_for_specs(self, answer: Answer | None) -> None:
        # Whoever asks while they are read gets what is read: asking often costs little.
        self._specs_wanted.append(answer)
        if len(self._specs_wanted) == 1:
            self._tasks.start(self._tell_specs(), "specs")

    async def _tell_specs(self) -> None:
        said: Specs | Refused
        try:
            said = await asyncio.to_thread(read_specs, self._adapters.leases_folder, self.runtimes)
        except P2prcError as error:
            said = _refusal(error)
        finally:
            wanted, self._specs_wanted = self._specs_wanted, []
        for answer in wanted:
            if answer is not None:
                answer(said)


def _refusal(error: P2prcError) -> Refused:
    return Refused(error.code, error.message[:500], error.hint[:500])


@asynccontextmanager
async def open_node(
    secret: bytes,
    description: SelfDescription,
    policy: LendingPolicy,
    adapters: Adapters,
    *,
    founds_open: bool = False,
) -> AsyncIterator[Node]:
    """A running node. Leaving the block ends its leases, then its links, then its loops."""
    async with asyncio.TaskGroup() as group:
        node = Node(
            secret,
            description,
            policy,
            adapters=adapters,
            tasks=Tasks(group),
            founds_open=founds_open,
        )
        await node.take_up()
        node.start()
        try:
            await node.try_bridge()
            yield node
        finally:
            await node.stop()
