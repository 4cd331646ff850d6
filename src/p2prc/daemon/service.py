"""What the control API can ask of this process: `api.service.NodeService`, on a live node."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing, suppress

import msgspec

from p2prc.api import schema
from p2prc.daemon.admission import AdmissionDesk
from p2prc.daemon.containers import ContainerDesk
from p2prc.daemon.doctor import look
from p2prc.daemon.images import bring_image, image_row
from p2prc.daemon.jobs import JobDesk
from p2prc.daemon.log import last_lines
from p2prc.daemon.names import as_typed, find_lease, find_node, is_node_id
from p2prc.daemon.orders import absolute_folder
from p2prc.daemon.policy import POLICY_KEYS, PolicyDesk, bridge_notices, networks_lent, used_of
from p2prc.daemon.rows import (
    bandwidth_of,
    bandwidth_or_none,
    instant,
    lease_row,
    node_row,
    notices_of_bugs,
    relay_of,
    runtimes_of,
    specs_of,
    usage_row,
)
from p2prc.daemon.running import Running
from p2prc.daemon.tunnels import TunnelDesk
from p2prc.errors import InvalidInput, NodeUnknown, PeerError
from p2prc.model.identity import LeaseId, NodeId
from p2prc.node.node import Node
from p2prc.node.relaying import Relaying
from p2prc.protocol.diagnosis import ReachFacts, diagnose
from p2prc.protocol.membership import NodeState, NodeView
from p2prc.reachability.interfaces import read_interfaces
from p2prc.storage.home import Home

PING_TIMEOUT_S = 3.0
NEWCOMER_PATIENCE_S = 2.0
OWNERS_READ = "owners_read"
"""The network of which it was said that owners can read what runs on their nodes."""


_OPEN_API = (
    "the control API is on other addresses than this machine's own, as plain HTTP: who reads its "
    "token on the way owns this node (`api.listen`)"
)


class DaemonService:
    """Answers for this process's node."""

    def __init__(
        self,
        node: Node,
        policies: PolicyDesk,
        home: Home,
        *,
        relaying: Relaying,
        shut_down: Callable[[], None],
        notices: Sequence[str] = (),
        engine_trouble: str = "",
    ) -> None:
        self._node = node
        self._notices = tuple(notices)
        self._engine_trouble = engine_trouble
        self._policies = policies
        self._admission = AdmissionDesk(node, self._find)
        self._home = home
        self._relaying = relaying
        self._shut_down = shut_down
        self.containers = ContainerDesk(node, self._find_soon)
        self.tunnels = TunnelDesk(node, self._find_soon, self.containers.find)
        self._desk = JobDesk(node, self._find)
        self._is_stopping = False
        self.api_url = ""
        self.is_api_open = False
        """Whether the API's TCP port is on more than this machine."""

    # -- this node --

    async def status(self) -> schema.Status:
        node, told = self._node, self._node.network.told.description
        there = node.network.told.whereabouts
        views = node.network.nodes()
        states = Counter(view.state for view in views)
        return schema.Status(
            id=node.id,
            name=told.name,
            pid=os.getpid(),
            network=node.network.standing.network,
            state=self._state(),
            addresses=list(there.addresses),
            is_public=there.is_public,
            relays=list(there.relays),
            leases=len(node.provider.leases()),
            uptime_s=round(asyncio.get_running_loop().time() - node.started_at, 1),
            version=told.software,
            home=str(self._home.folder),
            members=_members(views),
            alive=states[NodeState.ALIVE],
            dead=states[NodeState.DEAD],
            lending=schema.Lending(
                enabled=node.provider.lends,
                paused=node.provider.is_paused,
                to=self._policies.settings.values["lend.to"],
                cpus=told.lent.cpu_millis / 1000,
                memory_bytes=told.lent.memory_bytes,
                disk_bytes=told.lent.disk_bytes,
                runtimes=runtimes_of(node.runtimes),
                needed_for=node.provider.needed_for,
                network=networks_lent(node.policy),
            ),
            relay=relay_of(self._relaying),
            refusals=dict(
                node.links.refusals
                + Counter(node.network.gossip.refusals())
                + Counter(node.network.revocations.refusals())
                + Counter(node.neighbours.refusals())
                + Counter(internal=node.unforeseen)
            ),
            reachability=node.reach.sentence(),
            notices=[
                *self._notices,
                *node.reach.notices(),
                *self._admission.notices(),
                *self._policies.host_access_notices(node.name_of),
                *bridge_notices(node.bridge_trouble),
                *node.domain_door.all_troubles(),
                *notices_of_bugs(node.unforeseen),
                *([_OPEN_API] if self.is_api_open else []),
            ],
            host_access=list(self._policies.host_access),
            is_open=node.network.standing.member.is_open,
            requests=len(node.door.requests()),
            api=self.api_url,
        )

    def look_at_host_access(self) -> None:
        """Read again who has host access."""
        self._policies.look_at_host_access()

    def _state(self) -> str:
        if self._is_stopping:
            return "stopping"
        return "paused" if self._node.provider.is_paused else "running"

    async def shut_down(self) -> None:
        self._is_stopping = True
        # The answer leaves first.
        asyncio.get_running_loop().call_later(0.05, self._shut_down)

    async def settings(self) -> list[schema.Setting]:
        return [
            schema.Setting(key=key, value=value, origin=self._policies.settings.origins[key])
            for key, value in self._policies.settings.values.items()
        ]

    async def node_log(self, lines: int) -> list[str]:
        return await asyncio.to_thread(last_lines, self._home.log, lines)

    # -- the network --

    async def invite(self, request: schema.InviteRequest) -> schema.Invitation:
        self._node.inviting.check_may_invite()
        reach = await self._node.reach.way_in(is_lan=request.is_lan)
        ticket, expires_at = self._node.inviting.invite(
            expires_s=request.expires_s,
            may_invite=request.is_admin,
            reach=reach,
            relays=() if reach == "lan" else self._node.reach.ticket_relays(),
        )
        network = self._node.network.standing.network
        return schema.Invitation(
            ticket=ticket, network=network, expires_at=instant(expires_at), reach=reach
        )

    async def join(self, ticket: str) -> schema.Joined:
        standing = await self._node.joining.join(ticket)
        return schema.Joined(
            network=standing.network,
            name=self._node.network.told.description.name,
            members=_members(self._node.network.nodes()),
        )

    def ask(self, request: schema.AskRequest) -> AsyncIterator[schema.AskEvent]:
        return self._admission.ask(request)

    async def requests(self) -> list[schema.RequestRow]:
        return self._admission.requests()

    async def decide(self, decision: schema.Decision) -> schema.RequestRow:
        return self._admission.decide(decision)

    async def revoke(self, request: schema.RevokeRequest) -> schema.RevokedNode:
        return self._admission.revoke(request)

    async def metadata(self) -> dict[str, str]:
        return self._node.network.told.metadata

    async def change_metadata(self, changes: dict[str, str]) -> dict[str, str]:
        self._node.network.change_metadata(changes)
        return self._node.network.told.metadata

    async def leave(self) -> None:
        await self._node.network.leave()

    async def nodes(self) -> list[schema.NodeRow]:
        rows = []
        for view in self._node.network.nodes():
            link = self._node.links.get(view.record.node)
            path = (await link.connection.path()).kind if link is not None else None
            latency_s = link.latency_s if link is not None else None
            row = node_row(view, own=self._node.id, path=path, latency_s=latency_s)
            measured = self._node.bulk.bandwidths.get(view.record.node)
            rows.append(msgspec.structs.replace(row, bandwidth=bandwidth_or_none(measured)))
        return sorted(rows, key=lambda row: (not row.is_self, row.name, row.id))

    async def specs(self, node: str) -> schema.SpecsOfNode:
        return specs_of(await self._node.specs(self._find(node)))

    async def volumes(self, node: str) -> list[schema.VolumeRow]:
        if not node:
            kept = await self._node.volumes.kept()
            return [
                schema.VolumeRow(
                    name=each.name,
                    peer=each.peer,
                    size_bytes=each.size_bytes,
                    is_used=each.is_used,
                    peer_name=self._node.name_of(each.peer),
                )
                for each in kept
            ]
        return [
            schema.VolumeRow(
                name=each.name,
                peer=self._node.id,
                size_bytes=each.size_bytes,
                is_used=each.is_used,
                peer_name=self._node.name_of(self._node.id),
            )
            for each in await self._node.volumes_at(self._find(node))
        ]

    async def erase_volume(self, request: schema.EraseRequest) -> None:
        if request.node:
            await self._node.erase_volume(self._find(request.node), request.name)
            return
        owners = {each.peer for each in await self._node.volumes.kept()}
        peer = self._find(request.peer, *owners) if request.peer else self._node.id
        await self._node.volumes.erase(peer, request.name)

    async def images(self, node: str) -> list[schema.ImageRow]:
        return [image_row(offer) for offer in await self._node.images.of(self._find(node))]

    def bring_image(self, request: schema.ImageRequest) -> AsyncIterator[schema.ImageEvent]:
        return bring_image(self._node.images, request, self._find)

    async def ping(self, node: str, count: int) -> schema.PingResult:
        from statistics import median  # noqa: PLC0415 - two thirds of a megabyte

        peer = await self._find_soon(node)
        if peer == self._node.id:
            raise InvalidInput("a node does not ping itself", hint="see `p2prc nodes`")
        try:
            link = await self._node.links.reach(peer)
        except PeerError as error:
            raise as_typed(error, peer, node) from error
        trips: list[float] = []
        for _ in range(count):
            try:
                trips.append(1000 * await link.measure_s(timeout_s=PING_TIMEOUT_S))
            except PeerError:
                if link.is_lost:
                    break
        rtt = None
        if trips:
            rtt = schema.RoundTrips(
                min=round(min(trips), 3),
                median=round(median(trips), 3),
                max=round(max(trips), 3),
            )
        path = None if link.is_lost else (await link.connection.path()).kind
        return schema.PingResult(
            node=peer,
            path=path,
            rtt_ms=rtt,
            lost=count - len(trips),
            sent=count,
            bandwidth=bandwidth_or_none(self._node.bulk.bandwidths.get(peer)),
        )

    async def measure_bandwidth(self, node: str) -> schema.Bandwidth:
        peer = await self._find_soon(node)
        if peer == self._node.id:
            raise InvalidInput("a node has no way to itself", hint="see `p2prc nodes`")
        try:
            return bandwidth_of(await self._node.bulk.measure(peer))
        except PeerError as error:
            raise as_typed(error, peer, node) from error

    async def interfaces(self) -> list[schema.InterfaceRow]:
        return [
            schema.InterfaceRow(
                name=each.name,
                up=each.is_up,
                addresses=list(each.addresses),
                gateways=list(each.gateways),
            )
            for each in await asyncio.to_thread(read_interfaces)
        ]

    async def doctor(self, node: str) -> list[schema.Check]:
        peer = self._find(node) if node else None
        facts = await look(
            self._node,
            self._home.folder,
            self._reach_facts(),
            peer,
            engine=self._engine_trouble,
        )
        return [
            schema.Check(
                check=found.check, ok=found.is_ok, finding=found.finding, advice=found.advice
            )
            for found in diagnose(facts)
        ]

    def _reach_facts(self) -> ReachFacts:
        server, reach = self._relaying.server, self._node.reach
        machine, mapping = reach.machine, reach.machine.mapping
        return ReachFacts(
            listening=self._node.network.told.description.addresses,
            relay_port=None if server is None else server.port,
            relay_port_trouble=self._relaying.reason,
            nat="blocked" if reach.is_udp_blocked else machine.nat,
            is_public=machine.is_public,
            untried=reach.untried(),
            external=tuple(dict.fromkeys(filter(None, (mapping.address, *machine.external)))),
            mapping=mapping.method,
            mapping_trouble=mapping.trouble,
            relay_setting=self._policies.settings.relay,
            relays=reach.relays.facts(),
            neighbours=self._node.neighbours.count,
            neighbours_trouble=self._node.neighbours.trouble,
        )

    # -- work --

    async def run(self, request: schema.RunRequest) -> AsyncIterator[schema.RunEvent]:
        target = None if request.target == "any" else await self._find_soon(request.target)
        for notice in self._said_once(request, target):
            yield schema.RunNote(message=notice)
        async with aclosing(Running(self._node, request, target).events()) as events:
            async for event in events:
                yield event

    async def submit(self, request: schema.JobRequest) -> schema.JobCreated:
        created = await self._desk.submit(request)
        notices = [*created.notices, *self._said_once(request, None)]
        return msgspec.structs.replace(created, notices=notices)

    async def submit_template(self, request: schema.TemplateRequest) -> schema.JobCreated:
        created = await self._desk.submit_template(request)
        notices = [*created.notices, *self._said_once(request, None)]
        return msgspec.structs.replace(created, notices=notices)

    def _said_once(
        self,
        request: schema.RunRequest | schema.JobRequest | schema.TemplateRequest,
        target: NodeId | None,
    ) -> list[str]:
        """Say once in each network whom work that leaves this machine is shown to."""
        is_alone = len(self._node.network.nodes()) < 2
        if not request.has_reader or target == self._node.id or is_alone:
            return []
        network = self._node.network.standing.network.encode()
        state = self._node.state
        if state.value(OWNERS_READ) == network:
            return []
        state.set_values({OWNERS_READ: network})
        return [
            "who owns a node can read what runs there, its inputs and its outputs; "
            "to keep work on nodes that you trust: `map --on NODE,...`, `run NODE`"
        ]

    async def jobs(self) -> list[schema.JobRow]:
        return self._desk.rows()

    async def job(self, job: str) -> schema.JobDetail:
        return self._desk.detail(await self._desk.found(job))

    async def job_events(self, job: str) -> AsyncIterator[schema.JobEvent]:
        async for event in self._desk.events(await self._desk.found(job)):
            yield event

    async def task_logs(self, job: str, task: str | None) -> list[schema.TaskLog]:
        return self._desk.logs(await self._desk.found(job), task)

    async def results(self, job: str, to: str) -> schema.Collected:
        return await self._desk.results(await self._desk.found(job), absolute_folder(to))

    async def cancel(self, job: str) -> schema.JobRow:
        return await self._desk.cancel(await self._desk.found(job))

    async def retry(self, job: str) -> schema.JobRow:
        return await self._desk.retry(await self._desk.found(job))

    # -- the owner's side --

    async def leases(self) -> list[schema.LeaseRow]:
        wall_offset_s = time.time() - asyncio.get_running_loop().time()
        return [
            lease_row(
                reading,
                peer_name=self._node.name_of(reading.lease.peer),
                wall_offset_s=wall_offset_s,
            )
            for reading in await self._node.provider.readings()
        ]

    async def usage(self, since_s: float) -> list[schema.UsageRow]:
        since_at = time.time() - since_s
        return [
            usage_row(used, peer_name=self._node.name_of(used.peer))
            for used in self._node.provider.usage(since_at=since_at)
        ]

    async def kill(self, request: schema.KillRequest) -> schema.Killed:
        leases = self._node.provider.leases()
        wanted: list[LeaseId] = []
        if request.is_all:
            wanted = [view.lease for view in leases]
        elif request.peer:
            peer = self._find(request.peer, *(view.peer for view in leases))
            wanted = [view.lease for view in leases if view.peer == peer]
        else:
            known = [view.lease for view in leases]
            wanted = [find_lease(typed, known) for typed in request.leases]
        await self._node.provider.kill(wanted)
        return schema.Killed(ended=list(wanted))

    async def policy(self) -> list[schema.Setting]:
        used = used_of(self._node.provider.leases())
        return [
            schema.Setting(row.key, row.value, row.origin, used.get(row.key, ""))
            for row in await self.settings()
            if row.key in POLICY_KEYS
        ]

    async def set_policy(self, request: schema.PolicyRequest) -> schema.PolicyChanged:
        return await self._changed(self._policies.set(request.key, request.value))

    async def allow(self, node: str) -> schema.PolicyChanged:
        return await self._changed(self._policies.allow(self._find_any(node)))

    async def deny(self, node: str) -> schema.PolicyChanged:
        return await self._changed(self._policies.deny(self._find_other(node)))

    async def _changed(self, notes: list[str]) -> schema.PolicyChanged:
        return schema.PolicyChanged(rules=await self.policy(), notes=notes)

    def _find_other(self, typed: str) -> NodeId:
        found = self._find_any(typed)
        if found == self._node.id:
            raise InvalidInput(
                "a node denies itself nothing",
                hint="to lend nothing for a while: `p2prc pause`",
            )
        return found

    def _find_any(self, typed: str) -> NodeId:
        """Return a node that may be unknown here: a whole id is enough."""
        lend = self._policies.settings.lend
        named = () if isinstance(lend.to, str) else lend.to
        return NodeId(typed) if is_node_id(typed) else self._find(typed, *named, *lend.deny)

    async def pause(self) -> None:
        self._node.pause()

    async def resume(self) -> None:
        self._node.resume()

    async def _find_soon(self, typed: str) -> NodeId:
        """Find a node to work with, waiting a moment for one that has just come.

        Raises Revoked where this node was put out: nobody else would answer it.
        """
        found = await self._find_newcomer(typed)
        if found != self._node.id:
            network = self._node.network
            network.revocations.judge(network.standing.member)
        return found

    async def _find_newcomer(self, typed: str) -> NodeId:
        until = asyncio.get_running_loop().time() + NEWCOMER_PATIENCE_S
        while asyncio.get_running_loop().time() < until:
            with suppress(NodeUnknown):
                return self._find(typed)
            await asyncio.sleep(0.1)
        return self._find(typed)

    def _find(self, typed: str, *others: NodeId) -> NodeId:
        """Return the node that is meant, among those in the table and others known by id alone."""
        if not typed:
            return self._node.id
        names = dict.fromkeys(others, "")
        names |= {view.record.node: view.record.name for view in self._node.network.nodes()}
        return find_node(typed, names)


def _members(views: Sequence[NodeView]) -> int:
    return sum(not view.record.has_left for view in views)
