"""Certificates for the domains that are routed here, ordered and renewed by ACME."""

from __future__ import annotations

import asyncio
import importlib
import logging
import threading
import time
from collections.abc import Iterable, MutableMapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from p2prc.protocol.renewals import RenewalBook
from p2prc.storage.disk import write_private
from p2prc.web.certificates import Certificates
from p2prc.web.orders import CHALLENGES, Obtain, Obtained, Order, OrderFailed

ACCOUNT_KEY = "account.key"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class AcmeRules:
    """The authority: the address of its directory, and whom it may write to."""

    directory: str
    email: str = ""


def obtain_by_acme(order: Order, answers: MutableMapping[str, bytes]) -> Obtained:
    """Do it with the library, where it is installed. Raises OrderFailed."""
    try:
        door = importlib.import_module("p2prc.web.acme")
    except ImportError as error:
        raise OrderFailed("certificates by ACME need `pip install p2prc[acme]`") from error
    obtained: Obtained = door.obtain(order, answers)
    return obtained


class DomainRenewal:
    """Orders one certificate at a time. `folder` is where they are kept."""

    def __init__(
        self, certificates: Certificates, folder: Path, *, obtain: Obtain | None = None
    ) -> None:
        self._certificates = certificates
        self.folder = folder
        self._obtain = obtain
        self._book = RenewalBook()
        self._answers: dict[str, bytes] = {}
        self.rules: AcmeRules | None = None

    def answer(self, path: str) -> bytes | None:
        """Return what the authority should find there now."""
        return self._answers.get(path) if path.startswith(CHALLENGES) else None

    def trouble(self, domain: str) -> str:
        """Say why the last order for a domain failed."""
        why = self._book.trouble(domain) if self.rules is not None else ""
        return f"no certificate: {why}" if why else ""

    def troubles(self) -> list[str]:
        """Say it of all."""
        if self.rules is None:
            return []
        return [
            f"no new certificate for `{name}`: {why}" for name, why in self._book.troubles().items()
        ]

    async def look(self, domains: Iterable[str]) -> bool:
        """Order what is due for these, one; say whether there is something new."""
        rules, now = self.rules, time.time()
        if rules is None:
            return False
        wanted = [name for name in domains if not name.startswith("*.")]
        lives: dict[str, tuple[float, float]] = {}
        for name in wanted:
            found = self._certificates.find(name)
            if found is not None:
                # What the owner put there is for the owner to renew, while it is good.
                is_ours = self.folder in found.path.parents
                is_kept = not is_ours and found.ends_at > now
                lives[name] = (now, found.ends_at) if is_kept else (found.begins_at, found.ends_at)
        domain = self._book.due(wanted, lives, now)
        if domain is None:
            return False
        self._book.ordered(now)
        order = Order(domain, rules.directory, rules.email, self.folder / ACCOUNT_KEY)
        try:
            obtained = await self._in_thread(order)
            await asyncio.to_thread(self._write, domain, obtained)
        except (OrderFailed, OSError) as error:
            self._book.failed(domain, str(error), time.time())
            log.warning("no certificate", extra={"domain": domain, "reason": str(error)})
            return False
        self._book.succeeded(domain)
        log.info("a certificate was issued", extra={"domain": domain})
        return True

    async def _in_thread(self, order: Order) -> Obtained:
        """Wait for an order whose thread holds up nobody's exit. Raises OrderFailed."""
        loop = asyncio.get_running_loop()
        waiting: asyncio.Future[Obtained] = loop.create_future()

        def settle(result: Obtained | Exception) -> None:
            if waiting.done():
                return
            if isinstance(result, Exception):
                waiting.set_exception(result)
            else:
                waiting.set_result(result)

        def work() -> None:
            result: Obtained | Exception
            try:
                result = (self._obtain or obtain_by_acme)(order, self._answers)
            except OrderFailed as error:
                result = error
            except Exception as error:  # noqa: BLE001 - nobody else would hear of it
                result = OrderFailed(repr(error))
            with suppress(RuntimeError):
                # The loop may be gone.
                loop.call_soon_threadsafe(settle, result)

        threading.Thread(target=work, name="an order for a certificate", daemon=True).start()
        return await waiting

    def _write(self, domain: str, obtained: Obtained) -> None:
        """Keep both, the key first and alone: half of it is told from a whole one."""
        folder = self.folder / domain
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name, content in (("privkey.pem", obtained.key), ("fullchain.pem", obtained.chain)):
            write_private(folder / name, content)
