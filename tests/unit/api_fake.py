"""A node that exists only as answers, behind the real server on a real socket."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

from p2prc.api import schema
from p2prc.api.address import socket_path
from p2prc.api.container_routes import ContainerService
from p2prc.api.listening import open_server
from p2prc.api.server import build_app
from p2prc.api.tunnel_routes import TunnelService
from p2prc.errors import JobUnknown, NodeUnknown, P2prcError

NODE = "ab" * 32
PEER = "cd" * 32
NETWORK = "ef" * 32
LEASE = "1f" * 10
JOB = "0123456789abcdef0123"
KEY = "k" * 40
CREATED_AT = "2026-01-02T03:04:05Z"
BOTH = schema.TaskCounts(total=4, queued=0, running=1, succeeded=3, failed=0)


class FakeNode:
    """Answers with fixed values, keeps what it was asked, and fails when told to."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.asked: list[object] = []
        self.error: P2prcError | None = None
        self.run_events: list[schema.RunEvent] = []
        self.job_end = job_detail("succeeded", schema.TaskCounts(total=4, succeeded=4))
        self.lease_rows = [lease_row()]
        self.checks = [schema.Check(check="sockets", ok=True, finding="listens on 10.1.2.3:8088")]
        self.name = "alpha"
        self.command_was_cancelled = threading.Event()
        self.is_endless = False
        self.stopped = threading.Event()

    def _noted(self, request: object) -> None:
        self.asked.append(request)
        if self.error is not None:
            raise self.error

    @property
    def tunnels(self) -> TunnelService:
        raise NotImplementedError

    @property
    def containers(self) -> ContainerService:
        raise NotImplementedError

    async def status(self) -> schema.Status:
        self._noted("status")
        return schema.Status(
            id=NODE,
            name=self.name,
            pid=4711,
            network=NETWORK,
            state="running",
            addresses=["192.0.2.1:8088"],
            is_public=False,
            leases=1,
            uptime_s=3725.0,
            version="0.1.0",
            home="/home/ada/.p2prc",
            members=2,
            lending=schema.Lending(
                enabled=True,
                cpus=3.0,
                memory_bytes=4 << 30,
                disk_bytes=10 << 30,
                runtimes=[schema.RuntimeTier(name="process", tier="userns")],
            ),
        )

    async def shut_down(self) -> None:
        self._noted("shut_down")
        self.stopped.set()

    async def settings(self) -> list[schema.Setting]:
        return [schema.Setting(key="lend.cpus", value="3", origin="default")]

    async def node_log(self, lines: int) -> list[str]:
        self._noted(("node_log", lines))
        return ["node ready", "evil \x1b[2J name"]

    async def invite(self, request: schema.InviteRequest) -> schema.Invitation:
        self._noted(request)
        return schema.Invitation(
            ticket="p2prcTICKET", network=NETWORK, expires_at=CREATED_AT, reach="lan"
        )

    async def join(self, ticket: str) -> schema.Joined:
        self._noted(("join", ticket))
        return schema.Joined(network=NETWORK, name="home", members=2)

    async def ask(self, request: schema.AskRequest) -> AsyncIterator[schema.AskEvent]:
        self._noted(request)
        yield schema.AskStarted(
            node=PEER,
            fingerprint="cdcd-cdcd-cdcd-cdcd",
            own_fingerprint="abab-abab-abab-abab",
            address=request.address,
        )
        yield schema.AskWaiting()
        yield schema.AskEnded(schema.Joined(network=NETWORK, name="home", members=2))

    async def requests(self) -> list[schema.RequestRow]:
        self._noted("requests")
        return [request_row()]

    async def decide(self, decision: schema.Decision) -> schema.RequestRow:
        self._noted(decision)
        return request_row()

    async def revoke(self, request: schema.RevokeRequest) -> schema.RevokedNode:
        self._noted(request)
        return schema.RevokedNode(id=PEER, name="beta")

    async def metadata(self) -> dict[str, str]:
        self._noted("metadata")
        return {"room": "ki\x1btchen"}

    async def change_metadata(self, changes: dict[str, str]) -> dict[str, str]:
        self._noted(changes)
        return changes

    async def policy(self) -> list[schema.Setting]:
        self._noted("policy")
        return [schema.Setting(key="lend.to", value="members", origin="default")]

    async def set_policy(self, request: schema.PolicyRequest) -> schema.PolicyChanged:
        self._noted((request.key, request.value))
        return schema.PolicyChanged(
            rules=[schema.Setting(key=request.key, value=request.value, origin="config.toml")],
            notes=["it was given otherwise"],
        )

    async def allow(self, node: str) -> schema.PolicyChanged:
        self._noted(("allow", node))
        return schema.PolicyChanged(rules=await self.settings())

    async def deny(self, node: str) -> schema.PolicyChanged:
        self._noted(("deny", node))
        rule = schema.Setting(key="lend.deny", value=PEER, origin="config.toml")
        return schema.PolicyChanged(rules=[rule])

    async def leave(self) -> None:
        self._noted("leave")

    async def nodes(self) -> list[schema.NodeRow]:
        self._noted("nodes")
        runtimes = [schema.RuntimeTier(name="process", tier="userns")]
        return [
            schema.NodeRow(
                id=NODE, name=self.name, state="alive", is_self=True, path="self", cpus=4
            ),
            schema.NodeRow(
                id=PEER,
                name="be\x1b[2Jta",
                state="alive",
                is_self=False,
                path="direct",
                latency_ms=0.4,
                cpus=8,
                memory_bytes=16 << 30,
                runtimes=runtimes,
                free=schema.FreeCapacity(cpus=7.0, memory_bytes=8 << 30),
            ),
        ]

    async def volumes(self, node: str) -> list[schema.VolumeRow]:
        self._noted(("volumes", node))
        return [schema.VolumeRow(name="data", peer=PEER, size_bytes=1 << 20)]

    async def erase_volume(self, request: schema.EraseRequest) -> None:
        self._noted(("erase_volume", request.node, request.peer, request.name))

    async def images(self, node: str) -> list[schema.ImageRow]:
        self._noted(("images", node))
        return [schema.ImageRow(name="host", digest="sha256:ab", origin="machine")]

    async def bring_image(self, request: schema.ImageRequest) -> AsyncIterator[schema.ImageEvent]:
        self._noted(("bring_image", request.action, request.name, request.path, request.node))
        yield schema.ImageProgress(text="step 1")
        row = schema.ImageRow(name=request.name, digest="sha256:cd", origin="built")
        yield schema.ImageBrought(image=row)

    async def specs(self, node: str) -> schema.SpecsOfNode:
        if node == "nobody":
            raise NodeUnknown("no node is called `nobody`")
        self._noted(("specs", node))
        card = schema.GpuFacts(name="H200", memory_bytes=140 << 30, utilization_percent=7.0)
        return schema.SpecsOfNode(
            hostname="alpha",
            platform="Linux",
            cpu="Ryzen",
            cpus=4,
            memory_bytes=8 << 30,
            disk_bytes=100 << 30,
            gpus=[card],
        )

    async def interfaces(self) -> list[schema.InterfaceRow]:
        self._noted("interfaces")
        return [
            schema.InterfaceRow(
                name="eth0", up=True, addresses=["192.168.1.2"], gateways=["192.168.1.1"]
            )
        ]

    async def doctor(self, node: str) -> list[schema.Check]:
        self._noted(("doctor", node))
        return self.checks

    async def ping(self, node: str, count: int) -> schema.PingResult:
        self._noted(("ping", node, count))
        if node == "lost":
            return schema.PingResult(node=PEER, path=None, rtt_ms=None, lost=count, sent=count)
        trips = schema.RoundTrips(min=0.5, median=1.0, max=2.0)
        return schema.PingResult(node=PEER, path="direct", rtt_ms=trips, lost=0, sent=count)

    async def measure_bandwidth(self, node: str) -> schema.Bandwidth:
        self._noted(("measure_bandwidth", node))
        return schema.Bandwidth(down_bytes_s=12e6, up_bytes_s=3e6, measured_at=CREATED_AT)

    async def run(self, request: schema.RunRequest) -> AsyncIterator[schema.RunEvent]:
        self._noted(request)
        for event in self.run_events:
            yield event
        if self.is_endless:
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                self.command_was_cancelled.set()

    async def submit(self, request: schema.JobRequest) -> schema.JobCreated:
        self._noted(request)
        return schema.JobCreated(id=JOB, key=KEY, tasks=4)

    async def submit_template(self, request: schema.TemplateRequest) -> schema.JobCreated:
        self._noted(request)
        return schema.JobCreated(id=JOB, key=KEY, tasks=4)

    async def jobs(self) -> list[schema.JobRow]:
        self._noted("jobs")
        return [
            schema.JobRow(id=JOB, name="render", state="running", tasks=BOTH, created_at=CREATED_AT)
        ]

    async def job(self, job: str) -> schema.JobDetail:
        if job != JOB:
            raise JobUnknown(f"no job has the id `{job}`")
        return self.job_end

    async def job_events(self, job: str) -> AsyncIterator[schema.JobEvent]:
        self._noted(("job_events", job))
        share = schema.NodeShare(succeeded=3, running=1, name="beta")
        yield schema.JobProgress(
            id=JOB, state="running", tasks=BOTH, nodes={PEER: share}, rate_per_s=2.0, eta_s=0.5
        )
        yield schema.JobEnded(job=self.job_end)

    async def task_logs(self, job: str, task: str | None) -> list[schema.TaskLog]:
        self._noted(("task_logs", job, task))
        return [
            schema.TaskLog(
                task="i=3", attempt=2, node=PEER, node_name="beta", state="failed", log="boom\n"
            )
        ]

    async def results(self, job: str, to: str) -> schema.Collected:
        self._noted(("results", job, to))
        return schema.Collected(id=JOB, to=to, files=3, bytes=4096, missing=1)

    async def cancel(self, job: str) -> schema.JobRow:
        self._noted(("cancel", job))
        return schema.JobRow(id=JOB, name="render", state="cancelled", tasks=BOTH)

    async def retry(self, job: str) -> schema.JobRow:
        self._noted(("retry", job))
        return schema.JobRow(id=JOB, name="render", state="running", tasks=BOTH)

    async def usage(self, since_s: float) -> list[schema.UsageRow]:
        self._noted(("usage", since_s))
        return [schema.UsageRow(peer="b" * 64, peer_name="grace", since="2026-03-01", cpu_s=1.5)]

    async def leases(self) -> list[schema.LeaseRow]:
        self._noted("leases")
        return self.lease_rows

    async def kill(self, request: schema.KillRequest) -> schema.Killed:
        self._noted(request)
        return schema.Killed(ended=[LEASE])

    async def pause(self) -> None:
        self._noted("pause")

    async def resume(self) -> None:
        self._noted("resume")


def request_row() -> schema.RequestRow:
    return schema.RequestRow(
        id=PEER,
        name="beta",
        fingerprint="cdcd-cdcd-cdcd-cdcd",
        asked_at=CREATED_AT,
        address="192.0.2.7:4000",
    )


def lease_row() -> schema.LeaseRow:
    return schema.LeaseRow(
        id=LEASE,
        peer=PEER,
        peer_name="beta",
        image="",
        state="running",
        cpu_percent=98.5,
        memory_bytes=300 << 20,
        created_at=CREATED_AT,
        command="python render.py",
    )


def job_detail(
    state: str, tasks: schema.TaskCounts, failures: list[schema.TaskFailure] | None = None
) -> schema.JobDetail:
    return schema.JobDetail(
        id=JOB,
        name="render",
        state=state,
        tasks=tasks,
        created_at=CREATED_AT,
        nodes={PEER: schema.NodeShare(succeeded=tasks.succeeded, failed=tasks.failed, name="beta")},
        failures=failures or [],
        outputs_bytes=1 << 20,
        to="/tmp/out",
    )


@contextmanager
def served(fake: FakeNode, home: Path) -> Iterator[None]:
    """The fake answers on the socket of this home, from a thread, until the block ends."""
    ready, started = threading.Event(), []

    async def serve() -> None:
        stop = asyncio.Event()
        async with open_server(build_app(fake), socket_path(home)):
            started.append((asyncio.get_running_loop(), stop))
            ready.set()
            await stop.wait()

    server = threading.Thread(target=asyncio.run, args=(serve(),), daemon=True)
    server.start()
    assert ready.wait(20)
    try:
        yield
    finally:
        loop, stop = started[0]
        loop.call_soon_threadsafe(stop.set)
        server.join(20)
        assert not server.is_alive()
