"""The door to containers: sandboxes behind the runtime port, by an engine of this machine.

The engine is trusted with everything, as root mostly is; no tenant ever sees its socket. What is
ours among its containers bears labels: the home folder's mark and the lease's folder.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import logging
import os
import resource
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from random import Random, SystemRandom

from p2prc.errors import LeaseEnded, MachineCannot, P2prcError, RuntimeMissing
from p2prc.model.identity import LeaseId
from p2prc.model.image import ImageOffer
from p2prc.model.resources import Limits, RuntimeOffer
from p2prc.model.tiers import Attack, unstopped
from p2prc.runtime import volume_mounts
from p2prc.runtime.docker import calls, images
from p2prc.runtime.docker.config import (
    ENVIRONMENT,
    LABEL_CARDS,
    LABEL_FOLDER,
    LABEL_HOME,
    LABEL_UNTIL,
    WORK,
    Plan,
    changeable_limits,
    container_config,
    since_start_s,
)
from p2prc.runtime.docker.engine import Engine, Facts
from p2prc.runtime.docker.sandbox import DockerSandbox
from p2prc.runtime.docker.shelf import Shelf
from p2prc.runtime.docker.warm import Warm, WarmPool
from p2prc.runtime.port import Feature, Sandbox, SandboxSpec
from p2prc.runtime.process import bubblewrap, folders
from p2prc.runtime.process.assets import Interpreter, base_interpreter, write_assets
from p2prc.runtime.process.users import tenant_uid
from p2prc.runtime.resolvers import public_resolvers

log = logging.getLogger(__name__)

NAME = "docker"
CONTAINER = "container"
_PROBE_LIMITS = Limits(memory_bytes=1 << 28, disk_bytes=1 << 28, processes=64, lifetime_s=60)
_PROBE_S = 30.0
_GRACE_S = 60
"""A container outlives its lease by so much at most, when nobody is there to end it."""
_ENDLESS_S = 100 * 366 * 86400.0
"""What a lease without an end gets: longer than any machine runs."""
_PODMAN_CEILING = 32768
_PEOPLE = "passwd"
_FEATURES = frozenset(Feature)


class DockerRuntime:
    """Containers of the engine at `socket`, for the node whose home folder this is.

    `offered` are the images that requesters may name; `*` among them is any that is here.
    """

    def __init__(
        self,
        home: Path,
        socket: Path,
        *,
        offered: Collection[str] = (images.HOST_IMAGE,),
        interpreter: Interpreter | None = None,
        rng: Random | None = None,
    ) -> None:
        self._home = Path(os.path.realpath(home)) / "runtime-docker"
        self._mark = hashlib.sha256(os.fsencode(self._home)).hexdigest()[:20]
        self._interpreter = interpreter or base_interpreter()
        self._rng = rng or SystemRandom()
        self._engine = Engine(socket)
        self.shelf = Shelf(self._engine, offered)
        self._sandboxes: set[DockerSandbox] = set()
        self._uids: dict[DockerSandbox, int] = {}
        self._cards: dict[DockerSandbox, tuple[int, ...]] = {}
        self._left_over: set[str] = set()
        self._offers: tuple[RuntimeOffer, ...] | None = None
        self._preparing = asyncio.Lock()
        self._host_image: images.HostImage | None = None
        self.trouble = ""
        """Why no container can be started, once `probe` has been asked."""
        self._is_rootless = False
        self._is_podman = False
        self._calls = ""
        self._ceilings: tuple[tuple[str, int], ...] = ()
        self._warm = WarmPool(self._home / "warm", self._warmed)
        self._notes: dict[DockerSandbox, str] = {}

    @property
    def name(self) -> str:
        return NAME

    def offer_images(self, offered: Collection[str]) -> None:
        """Let requesters name these images from now on."""
        self.shelf.offer(offered)

    async def offered_images(self) -> tuple[ImageOffer, ...]:
        """Return what requesters may name."""
        await self._prepare()
        assert self._host_image is not None
        return await self.shelf.offers(self._host_image)

    def features(self, tier: str) -> frozenset[Feature]:
        return _FEATURES if tier == CONTAINER else frozenset()

    def unstopped(self, tier: str) -> frozenset[Attack]:
        found = unstopped(tier)
        return found - {Attack.ODD_CALLS} if tier == CONTAINER and self._calls else found

    async def probe(self) -> tuple[RuntimeOffer, ...]:
        if self._offers is None:
            self._offers = await self._try_out()
        return self._offers

    async def create(self, spec: SandboxSpec) -> Sandbox:
        if spec.tier != CONTAINER:
            raise RuntimeMissing(f"there is no tier `{spec.tier}` in the runtime `{NAME}`")
        await self._prepare()
        if spec.limits.gpus and self._is_podman:
            # Podman 4 says nothing and gives none.
            raise MachineCannot("Podman gives a container no gpu when it is asked as Docker is")
        await self._sweep()
        if (sandbox := await self._from_warm(spec)) is not None:
            return sandbox
        uid = self._new_uid()
        volume_mounts.check(spec.volumes, hidden=self._interpreter.prefix)
        plan = await self._plan(spec, uid)
        container = ""
        try:
            await asyncio.to_thread(_make_folders, spec.folder, uid)
            await volume_mounts.give(spec.volumes, uid)
            container = await self._engine.create(self._name_of(plan), container_config(plan))
            sandbox = await self._start(spec, container, uid)
            self._cards[sandbox] = plan.cards
            return sandbox
        except BaseException as error:
            await self._undo(spec, container)
            if isinstance(error, LeaseEnded):
                raise RuntimeMissing("the container ended at once") from error
            raise

    async def adopt(self, kept: Sequence[SandboxSpec]) -> list[Sandbox]:
        wanted = {_real(spec.folder): spec for spec in kept}
        ours = {sandbox.container for sandbox in self._uids}
        adopted: list[Sandbox] = []
        for found in await self._engine.containers([f"{LABEL_HOME}={self._mark}"]):
            container = str(found["Id"])
            if container in ours:
                continue
            label = str(found["Labels"].get(LABEL_FOLDER, ""))
            folder = self._warm.folder_of(label)
            spec = wanted.get(folder)
            sandbox = None if spec is None else await self._take_up(spec, container)
            if sandbox is None:
                await self._bury(container, folder)
                self._warm.forget_folder(label)
            else:
                self._notes[sandbox] = label
                adopted.append(sandbox)
        return adopted

    @property
    def mark(self) -> str:
        """What the containers of this home are labelled with."""
        return self._mark

    @property
    def warm_count(self) -> int:
        """How many containers wait for a lease."""
        return self._warm.size

    def keep_warm(self, count: int) -> None:
        """Have so many containers run before anybody wants them."""
        self._warm.keep(count)

    async def _bury(self, container: str, folder: str) -> None:
        """End what nobody takes up: the container, and the lease's folder."""
        await self._engine.remove(container)
        if not folder.startswith("/"):
            return
        try:
            await asyncio.to_thread(folders.remove, folder)
        except OSError as error:
            log.warning("a lease's folder is left over", extra={"reason": str(error)})

    async def close(self) -> None:
        await self._warm.close()
        async with asyncio.TaskGroup() as group:
            for sandbox in tuple(self._sandboxes):
                group.create_task(sandbox.end())
        await self._engine.close()

    async def let_go(self) -> None:
        """Go without ending what runs: the next life of the node takes it up."""
        await self._warm.close()
        for sandbox in tuple(self._sandboxes):
            await sandbox.detach()
        self._sandboxes.clear()
        await self._engine.close()

    def sandbox_ended(self, sandbox: DockerSandbox, *, is_removed: bool) -> None:
        """Forget a sandbox that is gone; try again later where the engine did not answer."""
        self._sandboxes.discard(sandbox)
        self._uids.pop(sandbox, None)
        self._cards.pop(sandbox, None)
        self._warm.drop(sandbox)
        self._warm.forget_folder(self._notes.pop(sandbox, ""))
        if not is_removed:
            self._left_over.add(sandbox.container)

    # -- making -------------------------------------------------------------------------------

    async def _start(self, spec: SandboxSpec, container: str, uid: int) -> DockerSandbox:
        until = _until(spec.limits)
        sandbox = DockerSandbox(spec, self._engine, container, uid=uid, until=until, host=self)
        # Before it starts: the first word must not be missed.
        await sandbox.open()
        await self._engine.start(container)
        await sandbox.started()
        self._sandboxes.add(sandbox)
        self._uids[sandbox] = uid
        return sandbox

    async def _warmed(self, spec: SandboxSpec) -> Warm:
        """Make a container that waits for its lease."""
        await self._prepare()
        uid = self._new_uid()
        plan = await self._plan(spec, uid)
        container = ""
        try:
            await asyncio.to_thread(_make_folders, spec.folder, uid)
            container = await self._engine.create(self._name_of(plan), container_config(plan))
            until = _until(spec.limits)
            sandbox = DockerSandbox(spec, self._engine, container, uid=uid, until=until, host=self)
            await sandbox.open()
            await self._engine.start(container)
            await sandbox.warmed()
        except BaseException:
            await self._undo(spec, container)
            raise
        self._uids[sandbox] = uid
        return Warm(sandbox, plan, since_start_s())

    async def _from_warm(self, spec: SandboxSpec) -> DockerSandbox | None:
        """Hand a warm container over; None where none fits, or it does not work out."""
        while (warm := self._warm.take(spec)) is not None:
            sandbox = warm.sandbox
            self._notes[sandbox] = warm.plan.folder
            try:
                await self._engine.limit(sandbox.container, changeable_limits(spec.limits))
                await asyncio.to_thread(self._warm.give_folder, warm, spec.folder)
                await sandbox.hand_over(spec, _until(spec.limits))
            except (OSError, P2prcError) as error:
                log.info("a warm container is of no use", extra={"reason": str(error)})
                await sandbox.end()
                continue
            except BaseException:
                await sandbox.end()
                raise
            self._sandboxes.add(sandbox)
            return sandbox
        return None

    async def _undo(self, spec: SandboxSpec, container: str) -> None:
        if container:
            try:
                await self._engine.remove(container)
            except MachineCannot:
                self._left_over.add(container)
        await asyncio.to_thread(folders.remove, str(spec.folder))

    async def _take_up(self, spec: SandboxSpec, container: str) -> DockerSandbox | None:
        facts = await self._engine.facts(container)
        if facts is None or not facts["State"].get("Running"):
            return None
        until = float(facts["Config"]["Labels"].get(LABEL_UNTIL, "0")) - _GRACE_S
        uid = int(str(facts["Config"]["User"]).partition(":")[0] or 0)
        sandbox = DockerSandbox(spec, self._engine, container, uid=uid, until=until, host=self)
        try:
            await sandbox.reopen()
        except (MachineCannot, LeaseEnded) as error:
            log.info("a container cannot be taken up", extra={"reason": error.message})
            return None
        self._sandboxes.add(sandbox)
        self._uids[sandbox] = uid
        held = str(facts["Config"]["Labels"].get(LABEL_CARDS, ""))
        self._cards[sandbox] = tuple(int(card) for card in held.split(",") if card.isdecimal())
        return sandbox

    async def _sweep(self) -> None:
        for container in tuple(self._left_over):
            await self._engine.remove(container)
            self._left_over.discard(container)

    async def _plan(self, spec: SandboxSpec, uid: int) -> Plan:
        assert self._host_image is not None
        variables = {"HOME": WORK, "TMPDIR": "/tmp", "LANG": "C.UTF-8"}  # noqa: S108
        environment = _real(spec.environment) if spec.environment else ""
        people = ""
        shared: tuple[str, ...] = ()
        declared: tuple[str, ...] = ()
        if spec.image in ("", images.HOST_IMAGE):
            image = self._host_image.name
            people = f"{_real(spec.folder)}/{_PEOPLE}"
            shared = self._host_image.shared
            variables = bubblewrap.base_variables(environment)
        else:
            image, known = await self.shelf.digest_of(spec.image)
            declared = tuple(sorted((known.get("Config") or {}).get("Volumes") or ()))
            if environment:
                variables["PYTHONPATH"] = ENVIRONMENT
        return Plan(
            image=image,
            home=self._mark,
            lease=spec.lease,
            folder=_real(spec.folder),
            first=str(self._home / "first"),
            uid=uid,
            until=int(_until(spec.limits)) + 1 + _GRACE_S,
            limits=spec.limits,
            variables=variables,
            environment=environment,
            shared=shared,
            declared=declared,
            calls=self._calls,
            ceilings=self._ceilings,
            people=people,
            volumes=tuple((_real(each.source), each.target) for each in spec.volumes),
            cards=self._free_cards(spec.limits.gpus),
            resolvers=public_resolvers(),
        )

    def _free_cards(self, wanted: int) -> tuple[int, ...]:
        """Choose cards that no other container has, lowest number first."""
        held = {card for cards in self._cards.values() for card in cards}
        numbers = itertools.count()
        return tuple(itertools.islice((card for card in numbers if card not in held), wanted))

    def _name_of(self, plan: Plan) -> str:
        return f"p2prc-{plan.lease[:12]}-{self._rng.getrandbits(32):08x}"

    def _new_uid(self) -> int:
        if os.geteuid() == 0:
            return tenant_uid(set(self._uids.values()), self._rng)
        # A rootless engine's uid 0 is ourselves, and it has no power there.
        return 0 if self._is_rootless else os.geteuid()

    # -- what is needed before ----------------------------------------------------------------

    async def _prepare(self) -> None:
        """Write what every container shows, and make the image that is always there."""
        async with self._preparing:
            if self._host_image is None:
                self._host_image = await asyncio.to_thread(self._write)
                self._fit(await self._engine.info())
            if await self._engine.image(self._host_image.name) is None:
                await self._engine.import_image(self._host_image.name, self._host_image.archive)

    def _fit(self, facts: Facts) -> None:
        """Learn from what the engine says of itself how it wants to be told."""
        kinds = [str(kind) for kind in facts.get("SecurityOptions") or ()]
        # A rootless engine's uid 0 is ourselves.
        self._is_rootless = any("rootless" in kind for kind in kinds)
        is_podman = self._is_podman = "BuildahVersion" in facts
        # An engine without such filters refuses a container that has one; Podman reads a file.
        if any("seccomp" in kind for kind in kinds):
            self._calls = str(self._home / "calls.json") if is_podman else calls.profile()
        if is_podman:
            # It wants more than many a machine allows, where nothing is said.
            self._ceilings = (
                ("nofile", _ceiling(resource.RLIMIT_NOFILE)),
                ("nproc", _ceiling(resource.RLIMIT_NPROC)),
            )

    def _write(self) -> images.HostImage:
        try:
            self._home.mkdir(parents=True, exist_ok=True)
            for leftover in self._home.glob("probe-*"):
                folders.remove(str(leftover))
            first = self._home / "first"
            first.unlink(missing_ok=True)
            first.write_bytes(images.first_process())
            first.chmod(0o755)
            (self._home / "calls.json").write_text(calls.profile())
            write_assets(self._home / "assets", self._interpreter)
        except FileNotFoundError as error:
            raise RuntimeMissing(f"containers do not work on this processor: {error}") from error
        except OSError as error:
            raise MachineCannot(f"the runtime's folder cannot be written: {error}") from error
        return images.host_image(self._home / "assets", self._interpreter.prefix)

    async def _try_out(self) -> tuple[RuntimeOffer, ...]:
        if not sys.platform.startswith("linux"):
            return ()
        try:
            facts = await self._engine.info()
            works = _can_hold(facts) and await self._works()
        except (MachineCannot, OSError) as error:
            self.trouble = str(error)
            log.info("containers do not work here", extra={"reason": self.trouble})
            return ()
        if not _can_hold(facts):
            self.trouble = "it has no control groups, so it can hold no container to its limits"
        return (RuntimeOffer(NAME, CONTAINER, _limits(facts)),) if works else ()

    async def _works(self) -> bool:
        """Run `true` in a container, the way a lease would."""
        name = f"probe-{self._rng.getrandbits(32):08x}"
        spec = SandboxSpec(LeaseId(name), self._home / name, _PROBE_LIMITS, CONTAINER)
        try:
            async with asyncio.timeout(_PROBE_S):
                sandbox = await self.create(spec)
                try:
                    running = await sandbox.execute(["true"], variables={})
                    return (await running.wait()).status == 0
                finally:
                    await sandbox.end()
        except TimeoutError:
            self.trouble = f"a container takes more than {_PROBE_S:g} s to start"
            log.info("containers do not work here: too slow")
            return False


def _until(limits: Limits) -> float:
    """Return when such a lease ends; containers carry it as a whole number."""
    return since_start_s() + min(limits.lasts_s, _ENDLESS_S)


def _ceiling(kind: int) -> int:
    most = resource.getrlimit(kind)[1]
    return _PODMAN_CEILING if most == resource.RLIM_INFINITY else min(most, _PODMAN_CEILING)


def _real(path: Path) -> str:
    return os.path.realpath(path)


def _can_hold(facts: Facts) -> bool:
    """Whether a container can be held to any limit at all, and its use be told."""
    return facts.get("CgroupDriver") != "none"


def _limits(facts: Facts) -> str:
    """Say whether the kernel holds memory and processes to their limits under this engine."""
    is_hard = all(facts.get(name) for name in ("MemoryLimit", "PidsLimit"))
    return "hard" if is_hard else "polled"


def _make_folders(folder: Path, uid: int) -> None:
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.mkdir(exist_ok=True)
    # Programs such as scp refuse a user without a name.
    people = folder / _PEOPLE
    people.write_text(f"tenant:x:{uid}:{uid}:tenant:{WORK}:/bin/sh\n")
    people.chmod(0o644)
    for name in ("inputs", "work", "tmp"):
        made = folder / name
        made.mkdir(mode=0o755, exist_ok=True)
        made.chmod(0o755)
        if os.geteuid() == 0 and name != "inputs":
            os.chown(made, uid, uid)
