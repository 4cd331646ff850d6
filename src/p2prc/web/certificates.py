"""Certificates of a folder, chosen by the name that is asked for, read again when files change."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509

from p2prc.errors import InvalidInput
from p2prc.protocol.domains import read_domain

FILES_LIMIT = 1000
_SIZE_LIMIT_BYTES = 1 << 20
_DAY_S = 86400.0
SOON_S = 7 * _DAY_S
"""A certificate that ends so soon should have been renewed."""
_CHAINS = (".pem", ".crt")
_KEY = ".key"
_CERTBOT = ("fullchain.pem", "privkey.pem")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Certificate:
    """One that can be used, its times in seconds since 1970."""

    path: Path
    names: frozenset[str]
    begins_at: float
    ends_at: float
    context: ssl.SSLContext

    def trouble(self, now: float) -> str:
        """Say what is wrong with its time; "" while nothing is."""
        left_s = self.ends_at - now
        if left_s <= 0:
            return "its certificate is over"
        if left_s <= SOON_S:
            days = int(left_s / _DAY_S)
            return f"its certificate ends in {f'{days} days' if days > 1 else 'a day or two'}"
        return ""


Stamp = tuple[tuple[str, int, int], ...]


class Certificates:
    """Those of the owner's folder, and of others that are added. `troubles` by file."""

    def __init__(self) -> None:
        self._by_name: dict[str, Certificate] = {}
        self._stamps: dict[Path, Stamp] = {}
        self._found: dict[Path, Certificate] = {}
        self.troubles: dict[Path, str] = {}

    def all(self) -> list[Certificate]:
        """Return them, by file."""
        return sorted(self._found.values(), key=lambda each: each.path)

    def find(self, host: str) -> Certificate | None:
        """Return the one for a host: of its own name before one of a wildcard."""
        rest = host.partition(".")[2]
        return self._by_name.get(host) or self._by_name.get(f"*.{rest}")

    def look(self, folders: tuple[Path, ...]) -> None:
        """Read what is new or other, and forget what is gone. May take a while."""
        # In a thread: what others look at meanwhile is replaced as a whole.
        stamps: dict[Path, Stamp] = {}
        known, troubles = dict(self._found), dict(self.troubles)
        for chain, key in _pairs(folders):
            stamp = _stamp(chain, key)
            if stamp is None:
                continue
            stamps[chain] = stamp
            if self._stamps.get(chain) == stamp:
                continue
            try:
                known[chain] = _read(chain, key)
            except (OSError, ValueError, InvalidInput) as error:
                # What was read before goes on: half a renewal is no reason to be away.
                troubles[chain] = f"`{chain}` cannot be used: {error}"
                log.warning("a certificate", extra={"file": str(chain), "reason": str(error)})
            else:
                troubles.pop(chain, None)
        self._found = {path: each for path, each in known.items() if path in stamps}
        self.troubles = {path: why for path, why in troubles.items() if path in stamps}
        self._stamps = stamps
        by_name: dict[str, Certificate] = {}
        for each in sorted(self._found.values(), key=lambda found: found.ends_at):
            # The one that lasts longest.
            by_name |= dict.fromkeys(each.names, each)
        self._by_name = by_name


def _pairs(folders: tuple[Path, ...]) -> Iterator[tuple[Path, Path]]:
    """Yield each chain and its key: `X.pem` or `X.crt` with `X.key` or alone, certbot's folders."""
    count = 0
    for folder in folders:
        try:
            entries = sorted(folder.iterdir())
        except OSError:
            continue
        for entry in entries:
            chain, key = entry, entry.with_suffix(_KEY)
            if entry.is_dir():
                chain, key = entry / _CERTBOT[0], entry / _CERTBOT[1]
            elif entry.suffix not in _CHAINS:
                continue
            count += 1
            if count > FILES_LIMIT:
                return
            if chain.exists():
                yield chain, key if key.exists() else chain


def _stamp(chain: Path, key: Path) -> Stamp | None:
    try:
        states = [(str(path), path.stat()) for path in (chain, key)]
    except OSError:
        return None
    return tuple((path, state.st_mtime_ns, state.st_size) for path, state in states)


def _read(chain: Path, key: Path) -> Certificate:
    """Return one that is ready for use. Raises OSError, ValueError, InvalidInput."""
    if max(chain.stat().st_size, key.stat().st_size) > _SIZE_LIMIT_BYTES:
        raise ValueError("it is too large for a certificate")
    found = x509.load_pem_x509_certificate(chain.read_bytes())
    try:
        alternative = found.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        raise ValueError("it names no host") from None
    names = alternative.value.get_values_for_type(x509.DNSName)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    # An empty password: else a key that has one would ask for it at the terminal.
    context.load_cert_chain(chain, key, password=lambda: b"")
    return Certificate(
        chain,
        frozenset(read_domain(name) for name in names),
        found.not_valid_before_utc.timestamp(),
        found.not_valid_after_utc.timestamp(),
        context,
    )
