"""Who may do what: membership chains and tickets (the only importer of biscuit)."""

from p2prc.authority.chains import (
    ADMISSIONS_LIMIT,
    CHAIN_LIMIT_BYTES,
    Member,
    Rights,
    admit,
    found_network,
    verify_chain,
)
from p2prc.authority.tickets import check_fresh, check_ticket, read_ticket, write_ticket

__all__ = [
    "ADMISSIONS_LIMIT",
    "CHAIN_LIMIT_BYTES",
    "Member",
    "Rights",
    "admit",
    "check_fresh",
    "check_ticket",
    "found_network",
    "read_ticket",
    "verify_chain",
    "write_ticket",
]
