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
from p2prc.authority.tickets import (
    SHOWN_PREFIX,
    check_fresh,
    check_ticket,
    commitment_to,
    read_shown_half,
    read_ticket,
    shown_half,
    write_ticket,
)

__all__ = [
    "ADMISSIONS_LIMIT",
    "CHAIN_LIMIT_BYTES",
    "SHOWN_PREFIX",
    "Member",
    "Rights",
    "admit",
    "check_fresh",
    "check_ticket",
    "commitment_to",
    "found_network",
    "read_shown_half",
    "read_ticket",
    "shown_half",
    "verify_chain",
    "write_ticket",
]
