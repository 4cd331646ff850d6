"""The process of a node: opens everything in order, says that it is ready, closes in reverse.

Whoever started it learns how that went from one line of JSON on `--ready-fd`: `{"ok": true}` or
`{"error": {...}}`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from random import SystemRandom

from p2prc import __version__
from p2prc.api.address import socket_path, ssh_socket_path
from p2prc.api.listening import open_server
from p2prc.api.own_routes import Route
from p2prc.api.server import build_app
from p2prc.api.tcp_door import is_for_this_machine, open_tcp_door, token_of
from p2prc.daemon.doctor import machine_facts_alone
from p2prc.daemon.log import set_up_logging
from p2prc.daemon.memory import allow_many_files, give_back, take_for_permanent, use_one_arena
from p2prc.daemon.policy import (
    PolicyDesk,
    door_rules_of,
    forward_rules_of,
    gateway_rules_of,
    images_from,
    lent_of,
    owner_rules_of,
    policy_of,
)
from p2prc.daemon.runtimes import NodeRuntimes, find_runtimes
from p2prc.daemon.service import DaemonService
from p2prc.daemon.ssh_door import open_ssh_door
from p2prc.errors import P2prcError, PortTaken
from p2prc.model.identity import NodeId
from p2prc.model.resources import Capacity
from p2prc.node.kept_leases import KeptLeases
from p2prc.node.machine import core_count, memory_bytes
from p2prc.node.mapping import mapping_nonce
from p2prc.node.node import Adapters, Node, open_node
from p2prc.node.own_record import SelfDescription
from p2prc.node.reachability import ReachConfig
from p2prc.node.relaying import Relaying, open_relaying
from p2prc.node.relays import MAKERS
from p2prc.plugins.hooks import Hooks, HookSet, installed_hooks
from p2prc.protocol.diagnosis import diagnose_machine
from p2prc.reachability.lan import open_lan
from p2prc.runtime.docker.late import NAME as DOCKER
from p2prc.runtime.environments import EnvironmentStore
from p2prc.settings import DEFAULT_PORT, KEEP, Address, Settings, read_settings, this_machine
from p2prc.storage.blobs import BlobStore
from p2prc.storage.home import Home, node_secret, open_home
from p2prc.storage.state import State, open_state
from p2prc.transport.iroh_endpoint import open_iroh_endpoint
from p2prc.transport.iroh_probe import reaches
from p2prc.transport.iroh_relays import relays_of_iroh
from p2prc.transport.port import Endpoint
from p2prc.transport.relay_ping import ping_relay

GIVE_BACK_EVERY_S = 10.0
LAST_PORT = "port"
NAME = "name"
_MILLIS = 1000

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Options:
    """How the process was started."""

    home: Path
    ready_fd: int | None
    overrides: dict[str, str]
    is_verbose: bool
    on_terminal: bool
    founds_open: bool = False
    is_check: bool = False


@dataclass(frozen=True, slots=True)
class Extras:
    """What a program that embeds a node brings along."""

    plugins: tuple[Hooks, ...] = ()
    routes: tuple[Route, ...] = ()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a node until it is told to stop; return an exit status."""
    options = _options(arguments)
    if options.is_check:
        checks = [asdict(found) for found in diagnose_machine(machine_facts_alone(options.home))]
        print(json.dumps(checks))
        return 0
    try:
        asyncio.run(_run(options))
    except P2prcError as error:
        return _fail(options, error)
    except BaseExceptionGroup as group:
        expected, bugs = group.split(P2prcError)
        if bugs is not None or expected is None:
            # The one crash boundary: whoever reads the node's log must find why it is gone.
            log.exception("the node ends by a bug")
            raise
        return _fail(options, _first(expected))
    return 0


def _fail(options: Options, error: P2prcError) -> int:
    if options.ready_fd is None:
        print(f"error: {error.message}", file=sys.stderr)
    else:
        _tell(options.ready_fd, {"error": error.as_fields()})
    return error.exit_status


def _options(arguments: Sequence[str] | None) -> Options:
    parser = argparse.ArgumentParser(prog="python -m p2prc.daemon", description=__doc__)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--ready-fd", type=int)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--verbose", action="store_true")
    parser.add_argument("--foreground", action="store_true", help="log to standard error too")
    parser.add_argument("--check", action="store_true", help="look at the machine, start nothing")
    parser.add_argument("--open", action="store_true", help="found a network that lets all in")
    given = parser.parse_args(arguments)
    overrides = dict(setting.partition("=")[::2] for setting in given.set)
    return Options(
        home=given.home,
        ready_fd=given.ready_fd,
        overrides=overrides,
        is_verbose=given.verbose,
        on_terminal=given.foreground,
        founds_open=given.open,
        is_check=given.check,
    )


async def _run(options: Options) -> None:
    stop = asyncio.Event()
    use_one_arena()
    allow_many_files()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    log_to = partial(set_up_logging, is_verbose=options.is_verbose, on_terminal=options.on_terminal)
    async with open_daemon(
        options.home, options.overrides, stop, founds_open=options.founds_open, log_to=log_to
    ) as service:
        _tell(options.ready_fd, {"ok": True})
        await _until(stop, service)
        log.info("node stops")


@asynccontextmanager
async def open_daemon(
    folder: Path,
    overrides: Mapping[str, str],
    stop: asyncio.Event,
    *,
    founds_open: bool = False,
    log_to: Callable[[Path], None] | None = None,
    extras: Extras | None = None,
) -> AsyncIterator[DaemonService]:
    """Open everything that a node is, its API among it; leaving the block closes it in reverse.

    `stop` is set when somebody asks the node to end. Without `log_to` logging stays as it is.
    """
    extras = extras or Extras()
    async with AsyncExitStack() as stack:
        home = stack.enter_context(open_home(folder, keeps_leases=True))
        if log_to is not None:
            log_to(home.log)
        settings = read_settings(
            home.folder,
            environment=os.environ,
            overrides=overrides,
            machine=this_machine(home.folder),
        )
        hooks = HookSet([*installed_hooks(), *extras.plugins])
        service = await _open(stack, home, settings, stop, founds_open=founds_open, hooks=hooks)
        app = build_app(service, extras.routes)
        await stack.enter_async_context(open_server(app, socket_path(home.folder)))
        if (place := settings.api_listen) is not None:
            service.api_url = await stack.enter_async_context(
                open_tcp_door(app, place.host, place.port, token_of(home.folder))
            )
            service.is_api_open = not is_for_this_machine(place.host)
            log.info("control API on TCP", extra={"url": service.api_url})
        await stack.enter_async_context(
            open_ssh_door(service.containers.open_ssh, ssh_socket_path(home.folder))
        )
        log.info("node ready", extra={"version": __version__, "pid": os.getpid()})
        yield service


async def _until(stop: asyncio.Event, service: DaemonService) -> None:
    """Wait for the end, and stay small meanwhile."""
    take_for_permanent()
    while not stop.is_set():
        give_back()
        service.look_at_host_access()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GIVE_BACK_EVERY_S):
                await stop.wait()


async def _open(
    stack: AsyncExitStack,
    home: Home,
    settings: Settings,
    stop: asyncio.Event,
    *,
    founds_open: bool,
    hooks: HookSet,
) -> DaemonService:
    state = stack.enter_context(open_state(home.state))
    secret = node_secret(home)
    blobs = await asyncio.to_thread(BlobStore, home.blobs, quota_bytes=settings.cache_bytes)
    environments = EnvironmentStore(home.environments, quota_bytes=settings.cache_bytes)
    lent = Capacity(
        cpu_millis=settings.lend.cpu_millis,
        memory_bytes=settings.lend.memory_bytes,
        disk_bytes=settings.lend.disk_bytes,
    )
    keeps_leases = settings.lend.after_restart == KEEP
    # Without any of these the engine's library need not be loaded.
    has_containers = any(kept.runtime == DOCKER for kept in KeptLeases(state).load())
    runtimes = await find_runtimes(
        home.folder, settings, spares_containers=keeps_leases and has_containers
    )
    stack.push_async_callback(runtimes.all.close)
    endpoint = await _endpoint(secret, settings, state)
    stack.push_async_callback(endpoint.close)
    policy = policy_of(settings)
    description = SelfDescription(
        name=_name(settings, state),
        software=__version__,
        cpus=core_count(),
        memory_bytes=memory_bytes(),
        lent=lent_of(settings),
        runtimes=await runtimes.all.probe(),
        addresses=_addresses(settings.public, await endpoint.addresses()),
        is_public=settings.public is not None,
    )
    adapters = Adapters(
        endpoint=endpoint,
        runtime=runtimes.all,
        images=runtimes.images,
        environments=environments,
        blobs=blobs,
        state=state,
        leases_folder=home.leases,
        certificates=home.certificates,
        keeps_leases=keeps_leases,
        rng=SystemRandom(),
        reach=ReachConfig(
            relay=settings.relay,
            foreign=settings.relay_public or relays_of_iroh(),
            foreign_name="of `relay.public`" if settings.relay_public else MAKERS,
            public=() if settings.public is None else (str(settings.public),),
            probe=reaches,
            ping=ping_relay,
            mapping_nonce=mapping_nonce(secret) if settings.port_mapping == "auto" else b"",
        ),
        open_lan=open_lan if settings.discovery_lan == "on" else None,
        hooks=hooks,
    )
    node = await stack.enter_async_context(
        open_node(secret, description, policy, adapters, founds_open=founds_open)
    )
    node.change_owner_rules(owner_rules_of(settings))
    runtimes.follow(settings)
    _set_pace(node, settings)
    _set_ports(node, settings)
    relaying = await _relaying(stack, node, settings, await endpoint.addresses())
    # Goodbyes may have to go through our own relay: it closes after them.
    stack.push_async_callback(node.stop)
    notices = [_damage(state, others=len(node.network.nodes()) - 1)] if state.notice else []
    notices += [runtimes.notice] if runtimes.notice else []
    notices += overcommitted(lent, cpus=core_count(), memory=memory_bytes())
    node.images.takes_from = images_from(settings)
    policies = PolicyDesk(settings, home, apply=partial(_apply, node, runtimes))
    policies.look_at_host_access()
    return DaemonService(
        node,
        policies,
        home,
        relaying=relaying,
        shut_down=stop.set,
        notices=notices,
        engine_trouble=runtimes.engine_trouble,
    )


def _damage(state: State, *, others: int) -> str:
    if others:
        return f"{state.notice}; the membership was kept, the jobs were not"
    # Without others there is nobody to come back to: perhaps there never was.
    return f"{state.notice}; if it was in a network with others, join again by a ticket"


def _set_ports(node: Node, settings: Settings) -> None:
    """Say which ports others reach here: those of this side, and public ones for theirs."""
    node.host_ports.rules = forward_rules_of(settings)
    node.gateway.change_rules(gateway_rules_of(settings))
    node.domain_door.change_rules(door_rules_of(settings))
    node.gateway.listen, node.gateway.host = settings.gateway.listen, settings.gateway.host


def _apply(
    node: Node, runtimes: NodeRuntimes, settings: Settings, host_access: Sequence[NodeId]
) -> None:
    """Put changed rules of lending into force."""
    _set_ports(node, settings)
    _set_pace(node, settings)
    runtimes.follow(settings)
    node.images.takes_from = images_from(settings)
    node.change_terms(lent_of(settings), policy_of(settings, host_access))
    node.change_owner_rules(owner_rules_of(settings))


def _set_pace(node: Node, settings: Settings) -> None:
    node.bulk.up.bytes_per_s = settings.transfer_up
    node.bulk.down.bytes_per_s = settings.transfer_down


def overcommitted(lent: Capacity, *, cpus: int, memory: int) -> list[str]:
    """Say where the owner lends more than there is: allowed, and probably a slip."""
    found = []
    if lent.cpu_millis > cpus * _MILLIS:
        found.append(f"lends more cores than the {cpus} of this machine: work will wait for them")
    if lent.memory_bytes > memory:
        found.append("lends more memory than this machine has: work may be killed for want of it")
    return found


async def _endpoint(secret: bytes, settings: Settings, state: State) -> Endpoint:
    """Listen where we are told; left to ourselves, where our peers last found us."""
    listen = settings.listen
    host = listen.host or "0.0.0.0"  # noqa: S104 - a node listens where its peers can reach it
    is_told = settings.origins["listen"] != "default"
    if is_told and listen.port:
        return await open_iroh_endpoint(secret, bind_addr=str(Address(host, listen.port)))
    for port in _usual_ports(state, 0 if is_told else DEFAULT_PORT):
        try:
            endpoint = await open_iroh_endpoint(secret, bind_addr=str(Address(host, port)))
        except PortTaken:
            log.info("a usual port is taken", extra={"port": port})
        else:
            found = (await endpoint.addresses())[0].rpartition(":")[2].encode()
            if state.value(LAST_PORT) != found:
                state.set_values({LAST_PORT: found})
            return endpoint
    raise PortTaken


async def _relaying(
    stack: AsyncExitStack, node: Node, settings: Settings, addresses: Sequence[str]
) -> Relaying:
    """Serve as a relay, on TCP, at the port that peers know from UDP."""
    serves_relay = settings.relay_serve != "off"
    port = int(addresses[0].rpartition(":")[2])
    relaying = await stack.enter_async_context(
        open_relaying(node, host=settings.listen.host, port=port, serves_relay=serves_relay)
    )
    if serves_relay:
        node.reach.relay_opened(None if relaying.server is None else relaying.server.port)
    return relaying


def _name(settings: Settings, state: State) -> str:
    """Return the name given now, else the one given last: a node keeps its name."""
    if settings.origins["name"] == "default":
        return (state.value(NAME) or settings.name.encode()).decode()
    state.set_values({NAME: settings.name.encode()})
    return settings.name


def _usual_ports(state: State, first: int) -> list[int]:
    last = state.value(LAST_PORT) or b""
    known = [int(last)] if last.isdigit() else []
    return list(dict.fromkeys([*known, first, 0]))


def _addresses(public: Address | None, found: tuple[str, ...]) -> tuple[str, ...]:
    given = () if public is None else (str(public),)
    return given + tuple(address for address in found if address not in given)


def _tell(descriptor: int | None, message: object) -> None:
    if descriptor is None:
        return
    try:
        os.write(descriptor, json.dumps(message).encode() + b"\n")
        os.close(descriptor)
    except OSError:
        # Whoever started us went away: nobody is left to tell.
        log.info("nobody waits for us to be ready")


def _first(errors: BaseExceptionGroup[P2prcError]) -> P2prcError:
    for error in errors.exceptions:
        return _first(error) if isinstance(error, BaseExceptionGroup) else error
    raise AssertionError("an exception group is never empty")
