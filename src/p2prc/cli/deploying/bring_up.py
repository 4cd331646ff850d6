"""Make the network what its file says: on each machine what is missing, and nothing else.

First every machine is looked at. Those that answer are installed and started; one that is in the
network already invites the others. A machine that cannot be reached is told of and left; the next
run takes it in.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from p2prc.cli.deploying.machine import INSTALL_TIMEOUT_S, Machine
from p2prc.cli.deploying.plan import Install, Plan, PlannedNode
from p2prc.errors import (
    AlreadyInNetwork,
    InvalidInput,
    P2prcError,
    RuntimeMissing,
    SettingInvalid,
    WorkFailed,
)
from p2prc.settings import CONFIG_FILE, settings_in

_AT_ONCE = 8
_OWN_PYTHON = (3, 11)
_TICKET_S = 3600
_PLACE = "$HOME/.local/share/p2prc"
_Made = TypeVar("_Made")


class NodeResult(msgspec.Struct, frozen=True):
    """What became of a node. `did` is empty when everything was so already."""

    name: str
    ssh: str
    ok: bool
    id: str = ""
    network: str = ""
    did: tuple[str, ...] = ()
    code: str = ""
    reason: str = ""


class Site:
    """One machine while it is brought up."""

    def __init__(self, planned: PlannedNode, install: Install) -> None:
        self.planned = planned
        self.machine = Machine(planned.ssh)
        self.did: list[str] = []
        self.status: dict[str, Any] = {}
        self.error: P2prcError | None = None
        self._install = install

    def prepare(self) -> None:
        """Install, set and start. Raises what the machine refused."""
        self._set_up()
        try:
            self.status = self._json("status")
        except WorkFailed:
            self.status = {}
        self._start(is_changed=self._set())
        self.status = self._json("status")

    def p2prc(self, *words: str, content: bytes = b"") -> str:
        """Run a command of p2prc there."""
        typed = " ".join(word if word == "2>&1" else shlex.quote(word) for word in words)
        return self.machine.run(f"{self._called()} {typed}", content)

    def _called(self) -> str:
        program = f'"{_PLACE}/bin/p2prc"'
        if self._install.program:
            program = shlex.quote(self._install.program)
        return (
            f"{program} --home {shlex.quote(self.planned.home)}" if self.planned.home else program
        )

    def _json(self, *words: str) -> dict[str, Any]:
        said: dict[str, Any] = json.loads(self.p2prc("--json", *words))
        return said

    # -- installing

    def _set_up(self) -> None:
        if self._install.program:
            self.machine.run(f"{shlex.quote(self._install.program)} --version")
            return
        mark, requirement, content = self._wanted()
        there = self.machine.run(f'cat "{_PLACE}/installed" 2>/dev/null || true').strip()
        if there == mark:
            return
        python = shlex.quote(self._install.python)
        least = ".".join(map(str, _OWN_PYTHON))
        asked = f"import sys; sys.exit(sys.version_info[:2] < {_OWN_PYTHON})"
        try:
            self.machine.run(f"{python} -c {shlex.quote(asked)}")
        except WorkFailed as error:
            raise RuntimeMissing(
                f"{self.planned.ssh} has no `{self._install.python}` of {least} or newer",
                hint="install it there, or name another: `install: {python: PATH}`",
            ) from error
        script = (
            f'set -e; mkdir -p "{_PLACE}"; cd "{_PLACE}"; '
            f"{'cat > ' + shlex.quote(requirement) + '; ' if content else ''}"
            f"test -x bin/pip || {python} -m venv . ; "
            f"bin/pip install --quiet --disable-pip-version-check --upgrade "
            f"{'--force-reinstall ' if content and there else ''}"
            f"{'./' if content else ''}{shlex.quote(requirement)}; "
            f'printf %s {shlex.quote(mark)} > installed; mkdir -p "$HOME/.local/bin"; '
            f'ln -sf "{_PLACE}/bin/p2prc" "$HOME/.local/bin/p2prc"'
        )
        self.machine.run(script, content, timeout_s=INSTALL_TIMEOUT_S)
        self.did.append("installed")

    def _wanted(self) -> tuple[str, str, bytes]:
        """Return a mark for what is wanted, what pip is given, and a wheel's bytes."""
        if not self._install.wheel:
            package = self._install.package or "p2prc"
            return package, package, b""
        path = Path(self._install.wheel).expanduser()
        try:
            content = path.read_bytes()
        except OSError as error:
            raise InvalidInput(f"the wheel `{path}` cannot be read: {error.strerror}") from error
        return hashlib.sha256(content).hexdigest(), path.name, content

    # -- settings, and the node itself

    def _set(self) -> bool:
        """Set what is not so already; say whether the node must be started again for it."""
        folder = f"'{self.planned.home}'" if self.planned.home else '"$HOME/.p2prc"'
        said = self.machine.run(f"cat {folder}/{CONFIG_FILE} 2>/dev/null || true")
        try:
            there = settings_in(said)
        except SettingInvalid as error:
            raise SettingInvalid(f"{self.planned.ssh}: {error.message}") from error
        if self.status:
            # A node keeps the name that it has been given once.
            there.setdefault("name", str(self.status["name"]))
        changed = [key for key, value in self.planned.settings.items() if there.get(key) != value]
        waits_for_start = False
        for key in changed:
            # Rules of lending are in force at once; it says so on standard error.
            told = self.p2prc("config", "set", key, self.planned.settings[key], "2>&1")
            waits_for_start |= "in force when" in told
        if changed:
            self.did.append(f"set {', '.join(changed)}")
        return waits_for_start

    def _start(self, *, is_changed: bool) -> None:
        if not self.status:
            self._up()
            self.did.append("started")
        elif is_changed or "installed" in self.did:
            self.p2prc("down")
            self._up()
            self.did.append("restarted")

    def _up(self) -> None:
        """Start it with the machine, where systemd serves this user; else until the next boot."""
        asked = (
            'test -S "${XDG_RUNTIME_DIR:-/run/user/$(id -u)}/systemd/private" && echo yes || true'
        )
        if self.machine.run(asked).strip() == "yes":
            self.p2prc("up", "--install")
        else:
            self.p2prc("up", "--detach")

    # -- the network

    def invite(self, *, is_admin: bool) -> str:
        """Return a ticket of this node's network."""
        words = ["invite", "--expires", f"{_TICKET_S}s", *(["--admin"] if is_admin else [])]
        try:
            return str(self._json(*words)["ticket"])
        except WorkFailed:
            # Nobody outside could use one: perhaps the others are in the same house.
            return str(self._json(*words, "--lan")["ticket"])

    def join(self, ticket: str) -> None:
        """Join by a ticket; it goes by standard input: arguments can be read by all users there."""
        self.p2prc("join", "-", content=ticket.encode() + b"\n")
        self.status = self._json("status")
        self.did.append("joined")

    def result(self) -> NodeResult:
        """Say what became of it."""
        return NodeResult(
            name=self.planned.name,
            ssh=self.planned.ssh,
            ok=self.error is None,
            id=str(self.status.get("id", "")),
            network=str(self.status.get("network") or ""),
            did=tuple(self.did),
            code=self.error.code if self.error else "",
            reason=self.error.message if self.error else "",
        )


def bring_up(plan: Plan, note: Callable[[str], None]) -> list[NodeResult]:
    """Bring it up; return what became of each node, in the file's order."""
    sites = [Site(planned, plan.install) for planned in plan.nodes]
    turns = threading.Lock()

    def tell(site: Site) -> None:
        with turns:
            words = site.error.message if site.error else ", ".join(site.did) or "as it should be"
            note(f"{site.planned.name}: {words}")

    def prepare(site: Site) -> None:
        _attempt(site, site.prepare)
        tell(site)

    _all(prepare, sites)
    there = [site for site in sites if site.error is None]
    inviter = choose_inviter(there)
    if inviter is not None:

        def join(site: Site) -> None:
            _attempt(site, lambda: _join(site, inviter))
            tell(site)

        _all(join, [site for site in there if _network(site) != _network(inviter)])
    return [site.result() for site in sites]


def choose_inviter(sites: Sequence[Site]) -> Site | None:
    """Return who lets the others in: of the network with most of the file's nodes, the first."""
    networks = [_network(site) for site in sites]
    return max(
        sites,
        key=lambda site: (
            networks.count(_network(site)),
            site.status.get("members", 1) > 1,
            -sites.index(site),
        ),
        default=None,
    )


def _network(site: Site) -> str:
    return str(site.status.get("network") or site.status.get("id", ""))


def _join(site: Site, inviter: Site) -> None:
    if int(site.status.get("members", 1)) > 1:
        raise AlreadyInNetwork(
            f"{site.planned.name} is in another network, with other members",
            hint=f"there: `p2prc leave`, then `p2prc deploy` again ({site.planned.ssh})",
        )
    try:
        ticket = inviter.invite(is_admin=site.planned.is_admin)
    except WorkFailed as error:
        raise WorkFailed(
            f"{inviter.planned.name} lets nobody in: {error.message}",
            hint="give the role `admin` to more than one node",
        ) from error
    site.join(ticket)


def _attempt(site: Site, step: Callable[[], None]) -> None:
    try:
        step()
    except P2prcError as error:
        site.error = error
    except (ValueError, KeyError) as error:
        site.error = WorkFailed(f"{site.planned.ssh} said something else than p2prc does: {error}")


def _all(step: Callable[[Site], None], sites: Sequence[Site]) -> None:
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        list(pool.map(step, sites))
