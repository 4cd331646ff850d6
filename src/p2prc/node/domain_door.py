"""The ports where this node takes what is asked of domains, and hands it to who has them.

Requests of HTTP are judged one by one. Connections of TLS are told apart by the name that they ask
for: ended here where there is a certificate for it, else handed over unread.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from p2prc.errors import MachineCannot, P2prcError, PolicyRefuses, WireError
from p2prc.node.counted import CountedLink, Traffic, until_idle
from p2prc.node.domain_renewal import AcmeRules, DomainRenewal
from p2prc.node.gateway import Gateway, Lent
from p2prc.node.splicing import SocketBytes, splice
from p2prc.protocol.client_hello import read_hello
from p2prc.protocol.domains import read_host
from p2prc.protocol.gateways import Granted
from p2prc.protocol.messages import MappingOpened
from p2prc.runtime.port import Link
from p2prc.web.certificates import Certificates
from p2prc.web.exchange import HttpClient, NoSuchHost
from p2prc.web.heads import Judged, Origin, redirect, text_answer
from p2prc.web.links import Ahead
from p2prc.web.orders import Obtain
from p2prc.web.tls import TlsLink

HELLO_S = 15.0
CLIENTS_LIMIT = 4096
"""Connections at once, of everybody together."""
PER_ADDRESS_LIMIT = 256
_AGAIN_S = 10.0
_SHORT = 200
_HTTP, _HTTPS = "http", "https"
_NO_SUCH_NAME = bytes((21, 3, 3, 0, 2, 2, 112))
"""TLS's own word that a name is not known (RFC 8446, 6.2)."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DoorRules:
    """Where to listen: nowhere by default. `listen` None is every address of this machine."""

    http_ports: tuple[int, ...] = ()
    https_ports: tuple[int, ...] = ()
    listen: str | None = None
    certificates: Path | None = None
    """The owner's folder of them."""
    acme: AcmeRules | None = None


class DomainDoor:
    """The ports of HTTP and TLS that this node has for domains."""

    def __init__(
        self, gateway: Gateway, *, folder: Path | None = None, obtain: Obtain | None = None
    ) -> None:
        self._gateway = gateway
        gateway.address_of = self.address_of
        self._rules = DoorRules()
        self._servers: dict[tuple[str, int], asyncio.Server] = {}
        self._listening = DoorRules()
        self._changed = asyncio.Event()
        self._clients: set[asyncio.Task[None]] = set()
        self._by_address: Counter[str] = Counter()
        self.certificates = Certificates()
        self._renewal = (
            None if folder is None else DomainRenewal(self.certificates, folder, obtain=obtain)
        )
        self.troubles: dict[int, str] = {}
        """Why nothing listens at a port."""

    def change_rules(self, rules: DoorRules) -> None:
        """Listen elsewhere from now on."""
        if rules != self._rules:
            self._rules = rules
            if self._renewal is not None:
                self._renewal.rules = rules.acme
            self._changed.set()

    def address_of(self, granted: Granted) -> MappingOpened:
        """Say where a domain is reached. Raises PolicyRefuses, MachineCannot."""
        rules = self._rules
        if not rules.http_ports and not rules.https_ports:
            raise PolicyRefuses(
                "this node routes no domains", hint="its owner: `p2prc policy set gateway.http 80`"
            )
        ports = rules.https_ports if granted.is_tls else rules.http_ports
        certificate = None if granted.is_tls else self.certificates.find(granted.domain)
        if certificate is not None and rules.https_ports:
            return MappingOpened(
                self._listening_port(_HTTPS, rules.https_ports),
                is_tls=True,
                certificate_ends_at=certificate.ends_at,
                trouble=certificate.trouble(time.time()) or self._order_trouble(granted.domain),
            )
        if not ports:
            raise PolicyRefuses(
                "this node routes no TLS"
                if granted.is_tls
                else f"this node has no certificate for `{granted.domain}`",
                hint="its owner chooses: `gateway.https`, `gateway.http`, `gateway.certificates`",
            )
        port = self._listening_port(_HTTPS if granted.is_tls else _HTTP, ports)
        # Who speaks TLS has a certificate of its own.
        missing = "" if granted.is_tls else self._order_trouble(granted.domain)
        return MappingOpened(port, is_tls=granted.is_tls, trouble=missing)

    def _order_trouble(self, domain: str) -> str:
        return "" if self._renewal is None else self._renewal.trouble(domain)[:_SHORT]

    def _listening_port(self, scheme: str, ports: tuple[int, ...]) -> int:
        """Return the first port that listens. Raises MachineCannot."""
        servers = [found for port in ports if (found := self._servers.get((scheme, port)))]
        if not servers:
            why = self.troubles.get(ports[0], f"does not listen on port {ports[0]} yet")
            raise MachineCannot(f"that node {why}")
        return _port_of(servers[0])

    def all_troubles(self) -> list[str]:
        """Say what its owner should know: ports that do not listen, certificates and their time."""
        now = time.time()
        found = [f"for domains this node {why}" for why in self.troubles.values()]
        found += self.certificates.troubles.values()
        found += [] if self._renewal is None else self._renewal.troubles()
        for each in self.certificates.all():
            if trouble := each.trouble(now):
                found.append(f"`{each.path}`: {trouble}")
        return found

    # -- its life

    async def run(self) -> None:
        """Listen where the rules say, and keep certificates."""
        await asyncio.gather(self._keep_listening(), self._keep_renewing())

    async def _keep_listening(self) -> None:
        while True:
            self._changed.clear()
            rules = self._rules
            folders = () if rules.certificates is None else (rules.certificates,)
            if self._renewal is not None and rules.acme is not None:
                folders = (*folders, self._renewal.folder)
            await asyncio.to_thread(self.certificates.look, folders)
            await self._listen()
            with suppress(TimeoutError):
                async with asyncio.timeout(_AGAIN_S if self.troubles or folders else None):
                    await self._changed.wait()

    async def _keep_renewing(self) -> None:
        # An order takes its time: meanwhile ports are opened and files read.
        while True:
            if await self._has_renewed():
                self._changed.set()
            await asyncio.sleep(_AGAIN_S)

    async def _has_renewed(self) -> bool:
        """Order a certificate that is due, of those whose TLS is to be ended here."""
        rules = self._rules
        if self._renewal is None or not rules.http_ports or not rules.https_ports:
            return False
        lent = [each.granted for each in self._gateway.all()]
        return await self._renewal.look(
            each.domain for each in lent if each.domain and not each.is_tls
        )

    async def stop(self) -> None:
        """Hang up."""
        for server in self._servers.values():
            server.close()
        self._servers.clear()
        clients = list(self._clients)
        for task in clients:
            task.cancel()
        await asyncio.gather(*clients, return_exceptions=True)

    async def _listen(self) -> None:
        rules = self._rules
        wanted = {(_HTTP, port) for port in rules.http_ports}
        wanted |= {(_HTTPS, port) for port in rules.https_ports}
        is_elsewhere = rules.listen != self._listening.listen
        self._listening = rules
        for key in list(self._servers):
            if is_elsewhere or key not in wanted:
                self._servers.pop(key).close()
        ports = {port for _, port in wanted}
        self.troubles = {port: why for port, why in self.troubles.items() if port in ports}
        for scheme, port in wanted - set(self._servers):
            try:
                server = await asyncio.start_server(
                    self._on_client(scheme, port), rules.listen, port
                )
            except OSError as error:
                self.troubles[port] = _why(error, port)
                log.warning("a port for domains", extra={"port": port, "reason": str(error)})
            else:
                self.troubles.pop(port, None)
                self._servers[scheme, port] = server

    # -- clients

    def _on_client(
        self, scheme: str, port: int
    ) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], None]:
        def on_client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            peer = writer.get_extra_info("peername")
            host = str(peer[0]).removeprefix("::ffff:") if peer else ""
            household = _household(host)
            is_full = len(self._clients) >= CLIENTS_LIMIT
            if is_full or self._by_address[household] >= PER_ADDRESS_LIMIT:
                writer.transport.abort()
                return
            name = f"[{host}]:{peer[1]}" if ":" in host else f"{host}:{peer[1] if peer else 0}"
            self._by_address[household] += 1
            task = asyncio.create_task(
                self._client(SocketBytes(reader, writer), Origin(host, scheme, port), name),
                name="a domain's client",
            )
            self._clients.add(task)
            task.add_done_callback(lambda done: self._gone(done, household))

        return on_client

    def _gone(self, task: asyncio.Task[None], household: str) -> None:
        self._clients.discard(task)
        self._by_address[household] -= 1
        if self._by_address[household] <= 0:
            del self._by_address[household]

    async def _client(self, client: Link, origin: Origin, name: str) -> None:
        try:
            if origin.scheme == _HTTPS:
                await self._secured(client, origin, name)
            else:
                await self._requests(client, origin, name)
        except (P2prcError, OSError, TimeoutError):
            # What a mapping met is told by its row; strangers' mistakes are nobody's trouble.
            pass
        finally:
            await client.close()

    async def _secured(self, client: Link, origin: Origin, name: str) -> None:
        early, asked = await _hello(client)
        host = None if asked is None else read_host(asked)
        lent = None if host is None else self._gateway.find(host)
        if lent is not None and lent.granted.is_tls:
            await self._gateway.carry(lent, Ahead(client, early), name)
            return
        certificate = None if host is None else self.certificates.find(host)
        if lent is None or certificate is None:
            await client.write(_NO_SUCH_NAME)
            await client.end_writing()
            return
        secured = TlsLink(client, certificate.context, early=early)
        async with asyncio.timeout(HELLO_S):
            await secured.shake_hands()
        await self._requests(secured, replace(origin, server_name=host), name)

    async def _requests(self, client: Link, origin: Origin, name: str) -> None:
        moved, rules = Traffic(), self._gateway.rules

        def opened(host: str) -> AbstractAsyncContextManager[Link]:
            return self._handed(host, name, moved)

        async def join(one: Link, other: Link) -> None:
            await splice(one, other)

        http = HttpClient(
            CountedLink(client, moved),
            origin,
            open_service=opened,
            join=join,
            answer_here=self._answer_here,
        )
        async with asyncio.timeout(rules.total_s):
            await until_idle(http.serve(), moved, idle_s=rules.idle_s)

    @asynccontextmanager
    async def _handed(self, host: str, name: str, moved: Traffic) -> AsyncIterator[Link]:
        lent = self._found(host)
        if lent is None:
            raise NoSuchHost
        async with self._gateway.handed(lent, name, moved) as far:
            yield far

    def _found(self, host: str) -> Lent | None:
        """Return who answers requests for a host; what speaks TLS itself does not."""
        lent = self._gateway.find(host)
        return None if lent is None or lent.granted.is_tls else lent

    def _answer_here(self, judged: Judged) -> bytes | None:
        if self._renewal is not None:
            found = self._renewal.answer(judged.request.target.decode("latin-1"))
            if found is not None:
                return text_answer(found)
        lent = self._gateway.find(judged.host)
        if lent is not None and lent.granted.is_tls and self._rules.https_ports:
            return redirect(judged.host, judged.request.target, self._rules.https_ports[0])
        return None


async def _hello(client: Link) -> tuple[bytes, str | None]:
    """Return what came, and the name that it asks for. Raises WireError, TimeoutError, OSError."""
    early = b""
    async with asyncio.timeout(HELLO_S):
        while (hello := read_hello(early)) is None:
            content = await client.read()
            if not content:
                raise WireError("the hello is cut short")
            early += content
    return early, hello.server_name


def _household(host: str) -> str:
    """Return what one customer of a provider has: an address, of IPv6 a /64."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if address.version == 4:
        return host
    return str(ipaddress.ip_network((int(address), 64), strict=False))


def _port_of(server: asyncio.Server) -> int:
    return int(server.sockets[0].getsockname()[1])


def _why(error: OSError, port: int) -> str:
    if isinstance(error, PermissionError):
        return f"may not listen on port {port}"
    if error.errno == errno.EADDRINUSE:
        return f"cannot listen on port {port}: it is taken"
    return f"cannot listen on port {port}: {error.strerror or error}"
