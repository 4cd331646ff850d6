"""Drives the choice of relays: which exist, how far each is, and those that the transport uses."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol
from urllib.parse import urlsplit

from p2prc.errors import P2prcError
from p2prc.node.drive import Driver
from p2prc.node.network import Network
from p2prc.node.relay_owners import RelayOwners, normal_url
from p2prc.node.relay_urls import in_ticket, leads_away, served_by
from p2prc.node.tasks import Tasks
from p2prc.protocol import relay_choice
from p2prc.protocol.diagnosis import RelayFacts
from p2prc.protocol.membership import NodeView
from p2prc.protocol.reachability_events import host_of, join
from p2prc.protocol.relay_choice import Candidate, CandidatesChanged, RelayChoice
from p2prc.relay.admission import member_bearer
from p2prc.transport.port import Endpoint, RelayAccess

BORROWED_S = 45.0
"""How long a ticket's relays are used: until those of the network are known and measured."""
LENT_LIMIT = 8
SHARED_LIMIT = 4
"""How many relays that others use are looked at: they come from the others."""
MAKERS = "of iroh's makers (n0)"
"""Whose relays are used when nobody names others."""


class Ping(Protocol):
    """Returns the seconds to a relay, None for none; `is_ours`: our owner has named it."""

    def __call__(self, url: str, *, is_ours: bool) -> Awaitable[float | None]: ...


log = logging.getLogger(__name__)


class Relays:
    """The relays through which we can be reached."""

    def __init__(
        self,
        setting: str,
        foreign: Sequence[str],
        *,
        foreign_name: str,
        endpoint: Endpoint,
        network: Network,
        tasks: Tasks,
        ping: Ping | None,
        measured: Callable[[], None],
    ) -> None:
        """`setting` is `auto`, `none` or a URL; `foreign` are those of strangers, whose by name."""
        self._named = () if setting in ("auto", "none") else (normal_url(setting),)
        self._is_auto = setting == "auto"
        self._foreign = tuple(map(normal_url, foreign)) if self._is_auto else ()
        self._foreign_name = foreign_name
        self._endpoint = endpoint
        self._network = network
        self._tasks = tasks
        self._ping = ping
        self._measured = measured
        self._owners = RelayOwners(lambda node: network.member_of(node) is not None)
        self._choice = RelayChoice()
        self._driver = Driver(self._choice, self._perform, tick=relay_choice.Tick)
        self._borrowed: dict[str, tuple[RelayAccess, float]] = {}
        self._own: RelayAccess | None = None
        self._given: tuple[RelayAccess, ...] = ()
        self._lent: dict[str, None] = {}
        """Relays of members at which others are dialled, the one asked for last at the end."""
        self._has_said = False
        self._offered: set[str] = set()

    def stop(self) -> None:
        """Measure nothing more."""
        self._driver.stop()

    @property
    def used(self) -> tuple[Candidate, ...]:
        """Return the relays at which we can be reached, best first: they answer, and know us."""
        held = self._endpoint.home_relays()
        alive = self._choice.alive
        return tuple(each for each in self._choice.used if each.url in alive and each.url in held)

    @property
    def is_foreign_used(self) -> bool:
        """Whether strangers carry our packets."""
        return any(each.owner == "foreign" for each in self._choice.used)

    @property
    def is_hopeful(self) -> bool:
        """Whether there is a relay that may yet answer."""
        return self._choice.is_hopeful

    def measure_anew(self) -> None:
        """Ask all again that may be used: somebody waits, or we are in another place."""
        self._driver.feed(relay_choice.MeasureAnew())

    def notice(self) -> str:
        """Say what strangers see of us, "" when none carries anything."""
        if not self.is_foreign_used:
            return ""
        return (
            f"no member can be reached from outside, so the public relays {self._foreign_name} "
            "carry what cannot go direct: they see the nodes' ids and addresses and how much is "
            "sent, never what; `--relay none` turns them off, `--relay URL` names your own"
        )

    def in_ticket(self) -> tuple[str, ...]:
        """Return the relays in use as a ticket names them."""
        return tuple(in_ticket(each.url, is_member=self._is_members(each)) for each in self.used)

    def facts(self) -> tuple[RelayFacts, ...]:
        """Return what is known of each relay, for people."""
        used = {each.url for each in self.used}
        refused = [url for url in self._owners.refused() if url in self._offered]
        return tuple(
            RelayFacts(url=url, is_member=False, is_refused=True, trouble=self._owners.refusal(url))
            for url in refused
        ) + tuple(
            RelayFacts(
                url=each.candidate.url,
                is_home=each.candidate.url in used,
                is_member=self._is_members(each.candidate),
                latency_s=each.latency_s if each.is_alive else None,
                trouble="" if each.is_alive else "nothing comes back",
            )
            for each in self._choice.allowed()
            if (each.latency_s is not None or each.silent) and each.candidate.url not in refused
        )

    def _is_members(self, relay: Candidate) -> bool:
        return relay.owner == "member" or self._owners.is_members(relay.url)

    def refresh(self, *, is_public: bool, is_foreign_wanted: bool) -> None:
        """Look at the table of nodes again, for whose relays are there."""
        # Whoever can be reached needs nobody in between, but for what its owner asked for.
        found = [] if is_public else [*self._members(), *self._shared(), *self._strangers()]
        found = [*(Candidate(url, "named") for url in self._named), *found]
        self._offered = {each.url for each in found}
        refused = self._owners.refused()
        usable = tuple(each for each in found if each.url not in refused)
        self._driver.feed(CandidatesChanged(usable, is_foreign_wanted))
        self._apply()

    def _is_served(self, url: str) -> bool:
        """Whether a member says that it serves the relay: it wants to see that we are one too."""
        return any(
            not view.is_self and url in served_by(view.record) for view in self._network.nodes()
        )

    def _members(self) -> list[Candidate]:
        # One that serves without being sure to be public is measured like the others: whoever is
        # among nodes without UDP alone finds nobody who could try its UDP port.
        records = [view.record for view in self._with_relays() if view.record.relays]
        # When there are more than anybody looks at, each node looks at others.
        own = int(self._network.own, 16)
        records.sort(key=lambda record: (not record.is_public, int(record.node, 16) ^ own))
        # A member's relay that our owner named may be known here by another name already.
        named = {self._owners.owner_of(url) for url in self._named}
        found = []
        for record in records:
            urls = [url for url in served_by(record) if self._is_of_our_family(url)]
            if urls and (record.node not in named or urls[0] in self._named):
                found.append(Candidate(urls[0], "member"))
        return found

    def _is_of_our_family(self, url: str) -> bool:
        """Whether we have the kind of address, of the internet's two, that the URL names."""
        own = self._network.told.whereabouts.addresses
        host = urlsplit(url).hostname or ""
        is_six = ":" in host
        return not host_of(join(host, 1)) or any(is_six == (":" in host_of(each)) for each in own)

    def ways_by(self, relays: Sequence[str]) -> tuple[str, ...]:
        """Return the URLs by which we come to these relays: a member's has one for each address."""
        served = [served_by(view.record) for view in self._network.nodes()]
        found = [
            way
            for url in relays
            for way in (url, *(each for urls in served if url in urls for each in urls))
        ]
        return tuple(sorted(dict.fromkeys(found), key=lambda url: not self._is_of_our_family(url)))

    def _with_relays(self) -> list[NodeView]:
        """Return the others whose relays may work.

        One in use is kept though its member is silent: both may be back soon, and whoever we reach
        through it alone would be lost with it.
        """
        used = {each.url for each in self._choice.used}
        return [
            view
            for view in self._network.nodes()
            if not view.is_self
            and (
                view.state in ("alive", "suspect")
                or (view.state == "dead" and not used.isdisjoint(view.record.relays))
            )
        ]

    def _shared(self) -> list[Candidate]:
        """Return relays of strangers at which other members are found: whoever named one chose."""
        if not self._is_auto:
            return []
        views = self._network.nodes()
        served = {url for view in views for url in served_by(view.record)}
        found = Counter(
            url
            for view in self._with_relays()
            for url in view.record.relays
            if url not in served and url not in self._foreign and leads_away(url)
        )
        # What our ticket told comes first: it holds while nobody else is there to tell.
        told = [url for url in self._network.kept.relays_of_ticket if url not in self._foreign]
        urls = dict.fromkeys([*told, *(url for url, _ in found.most_common(SHARED_LIMIT))])
        return [Candidate(url, "shared") for url in urls]

    def _strangers(self) -> list[Candidate]:
        return [Candidate(url, "foreign") for url in self._foreign]

    # -- what is served here, and what a ticket lends --

    def serve(self, port: int | None) -> None:
        """Our own relay listens on the port and others may use it: we are a client of it too.

        Through it those reach us from whom no UDP comes.
        """
        bearer = member_bearer(self._network.standing.chain)
        own = None if port is None else RelayAccess(f"http://127.0.0.1:{port}/", bearer)
        if own != self._own:
            self._own = own
            self._apply()

    async def borrow(self, relays: Sequence[RelayAccess]) -> None:
        """Use the relays of a ticket for a while."""
        ends_at = asyncio.get_running_loop().time() + BORROWED_S
        self._borrowed = {each.url: (each, ends_at) for each in relays}
        self._given = self._wanted()
        await self._endpoint.use_relays(self._given)

    async def lend(self, urls: Sequence[str], *, own: Sequence[str]) -> tuple[str, ...]:
        """Make ready to dial through a peer's relays; return what to dial through.

        `own` are URLs of the relay that we serve: from here it is on the loopback.
        """
        found = [self._own.url if self._own and url in own else url for url in urls]
        known = {each.url for each in self._given if each.url not in self._lent}
        for url in found:
            if url not in known and self._is_served(url):
                self._lent.pop(url, None)
                self._lent[url] = None
        for url in list(self._lent)[:-LENT_LIMIT]:
            del self._lent[url]
        wanted = self._wanted()
        if wanted != self._given:
            self._given = wanted
            await self._endpoint.use_relays(wanted)
        return tuple(dict.fromkeys(found))

    # -- doing it --

    def _perform(self, effect: relay_choice.ChoiceEffect) -> None:
        match effect:
            case relay_choice.Measure():
                self._tasks.start_for_peer(self._measure(effect.url), "measure a relay")
            case relay_choice.Use():
                log.info("relays chosen", extra={"relays": [each.url for each in effect.relays]})
                self._say_once()
                self._apply()

    def _say_once(self) -> None:
        if self.is_foreign_used and not self._has_said:
            self._has_said = True
            log.warning(self.notice())

    async def _measure(self, url: str) -> None:
        try:
            latency_s = await self._tasks.for_peer(self._latency_of(url), f"measure {url}")
        except P2prcError as error:
            # Whatever went wrong, the choice waits for an answer about this relay.
            log.info("a relay was not measured", extra={"url": url, "why": error.message})
            latency_s = None
        self._driver.feed(relay_choice.Measured(url, latency_s))
        self._measured()

    async def _latency_of(self, url: str) -> float | None:
        if self._ping is None:
            return None
        latency_s = await self._ping(url, is_ours=url in self._named or url in self._foreign)
        if latency_s is not None and not self._is_known_member(url):
            await self._owners.look(url)
            latency_s = None if self._owners.refusal(url) else latency_s
        return latency_s

    def _is_known_member(self, url: str) -> bool:
        candidates = [each.candidate for each in self._choice.allowed()]
        return any(each.url == url and each.owner == "member" for each in candidates)

    def _apply(self) -> None:
        wanted = self._wanted()
        if wanted != self._given:
            self._given = wanted
            self._tasks.start(self._endpoint.use_relays(wanted), "use relays")

    def _wanted(self) -> tuple[RelayAccess, ...]:
        now = asyncio.get_running_loop().time()
        self._borrowed = {url: each for url, each in self._borrowed.items() if each[1] > now}
        bearer = member_bearer(self._network.standing.chain)
        found = {url: access for url, (access, _) in self._borrowed.items()}
        for each in self._choice.used:
            found[each.url] = RelayAccess(each.url, bearer if self._is_members(each) else "")
        if self._own is not None:
            found[self._own.url] = self._own
        for url in self._lent:
            found.setdefault(url, RelayAccess(url, bearer))
        return tuple(found.values())
