"""What DNS says about a name, by the resolvers of this machine."""

from __future__ import annotations

import importlib
from typing import Any

ASKED_S = 5.0
TEXTS_LIMIT = 50


class NamesSilent(Exception):
    """DNS gave no answer: neither that there is one, nor that there is none."""


async def texts_of(name: str, *, server: tuple[str, int] | None = None) -> list[str]:
    """Return the TXT records of a name; none where there is none. Raises NamesSilent.

    `server` is the address of one to ask; None: those of this machine.
    """
    # Loaded by those few nodes that ask.
    resolving: Any = importlib.import_module("dns.asyncresolver")
    errors: Any = importlib.import_module("dns.exception")
    try:
        resolver = resolving.Resolver(configure=server is None)
        if server is not None:
            resolver.nameservers, resolver.port = [server[0]], server[1]
        found = await resolver.resolve(f"{name}.", "TXT", lifetime=ASKED_S, search=False)
    except (resolving.NXDOMAIN, resolving.NoAnswer):
        return []
    except (errors.DNSException, OSError) as error:
        raise NamesSilent(str(error)[:200]) from error
    texts = [b"".join(record.strings) for record in list(found)[:TEXTS_LIMIT]]
    return [text.decode("ascii", "replace") for text in texts]
