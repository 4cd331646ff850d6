"""What each kind of router does with packets, as nftables rules (the names are RFC 3489's).

Linux keeps a source port where it can, so plain masquerading shows everybody one address and lets
in only whom the inside has written to: a port-restricted cone. A full cone also remembers who uses
which port and sends strangers there. `fully-random` draws a new port for every destination, which
is what makes a NAT symmetric.
"""

from __future__ import annotations

from enum import Enum


class Nat(Enum):
    """How a router translates; `NONE` only routes, and lets in what was asked for."""

    NONE = "none"
    FULL_CONE = "full-cone"
    PORT_RESTRICTED = "port-restricted"
    SYMMETRIC = "symmetric"


_MASQUERADE = {
    Nat.NONE: "",
    Nat.FULL_CONE: "masquerade",
    Nat.PORT_RESTRICTED: "masquerade",
    Nat.SYMMETRIC: "masquerade fully-random",
}
_REMEMBER = 'oifname "wan" meta l4proto udp update @cone { udp sport : ip saddr }'
_LET_IN = 'iifname "wan" meta l4proto udp dnat to udp dport map @cone'


def rules_of(nat: Nat, *, blocks_udp: bool = False) -> str:
    """Return the rules for `nft -f`; they replace those that were there.

    What nobody asked for is dropped before the router itself sees it: else it would hold the port
    against the inside, which no router at home does. The chains of miniupnpd are there, empty.
    """
    is_cone = nat is Nat.FULL_CONE
    masquerade = _MASQUERADE[nat]
    return f"""
table inet lab
delete table inet lab
table inet lab {{
    map cone {{ type inet_service : ipv4_addr; flags dynamic, timeout; size 4096; timeout 120s; }}
    chain prerouting {{
        type nat hook prerouting priority dstnat;
        jump mapped
        {_LET_IN.replace("dnat to", "dnat ip to") if is_cone else ""}
    }}
    chain mapped {{ }}
    chain mapped_out {{ }}
    chain mapped_through {{ }}
    chain postrouting {{
        type nat hook postrouting priority srcnat;
        jump mapped_out
        {_REMEMBER if is_cone else ""}
        {f'oifname "wan" meta nfproto ipv4 {masquerade}' if masquerade else ""}
    }}
    chain forward {{
        type filter hook forward priority filter; policy drop;
        {"meta l4proto udp drop" if blocks_udp else ""}
        ct state established,related accept
        ct status dnat accept
        iifname "lan" accept
        jump mapped_through
    }}
    chain input {{
        type filter hook input priority filter; policy accept;
        iifname "wan" meta nfproto ipv4 ct state new drop
    }}
}}
"""
