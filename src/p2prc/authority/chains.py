"""Membership is a chain of keys: who was admitted, by whom, with which rights.

The founder signs the first block with the key that names the network. Each admission appends a
third-party block that the admitting member signs with its own node key. Whoever checks a chain
walks it: the signer of a block must be the member named in the block before, that member must
hold `invite`, and rights only shrink.

A biscuit may be extended by whoever holds it, and its logic may contain rules. Neither matters
here: a block counts only when it is signed by a member and its source is, letter for letter, one
of the few facts that we write ourselves. We never ask the datalog engine anything.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from dataclasses import dataclass, field
from functools import lru_cache

from biscuit_auth import (
    Biscuit,
    BiscuitBlockError,
    BiscuitBuilder,
    BiscuitBuildError,
    BiscuitSerializationError,
    BiscuitValidationError,
    BlockBuilder,
    KeyPair,
    PrivateKey,
    PublicKey,
)
from blake3 import blake3

from p2prc.errors import NotMember, RightMissing
from p2prc.model.identity import NodeId
from p2prc.wire.signed import public_key_of

CHAIN_LIMIT_BYTES = 4096
ADMISSIONS_LIMIT = 4
"""How many admissions may lie between the founder and a member."""

_INVITE = "invite"
_OPEN = "open"
"""Only in the founder's own block: whoever asks is let in."""
_CACHE_LIMIT = 16_384
_BLOCKS_LIMIT = 256
"""The founder's block begins every chain of a network, and few members let many in."""
_NETWORKS_LIMIT = 16
_BISCUIT_ERRORS = (
    BiscuitBlockError,
    BiscuitBuildError,
    BiscuitSerializationError,
    BiscuitValidationError,
    ValueError,
)
_BLOCK = re.compile(
    r'network\("(?P<network>[0-9a-f]{64})"\);\n'
    r'member\("(?P<member>[0-9a-f]{64})"\);\n'
    r'(?P<rights>(?:right\("[a-z][a-z-]{0,19}"\);\n){0,8})'
)
_RIGHT = re.compile(r'right\("([a-z-]+)"\);\n')


@dataclass(frozen=True, slots=True)
class Rights:
    """What a member may do beyond being one. Rights that this version does not know are kept
    in the chain and count when rights are compared, but grant nothing here.
    """

    may_invite: bool = False

    @property
    def names(self) -> frozenset[str]:
        """The rights as the chain writes them."""
        return frozenset({_INVITE} if self.may_invite else ())


@dataclass(frozen=True, slots=True)
class Member:
    """What a checked chain says. `depth` counts admissions: the founder's is 0.

    `line` is everybody in the chain, from the founder to the member itself. `is_open`: the
    network was founded as one that lets in whoever asks.
    """

    node: NodeId
    rights: Rights
    depth: int
    admitted_by: NodeId | None
    line: tuple[NodeId, ...] = field(default=(), compare=False)
    is_open: bool = False


@dataclass(frozen=True, slots=True)
class _Block:
    """The facts of one block."""

    network: NodeId
    member: NodeId
    rights: frozenset[str]

    def source(self) -> str:
        """Return the only text that means these facts."""
        lines = [f'network("{self.network}");', f'member("{self.member}");']
        lines += [f'right("{right}");' for right in sorted(self.rights)]
        return "\n".join(lines) + "\n"


def found_network(secret: bytes, *, is_open: bool = False) -> bytes:
    """Return the founder's chain; the network is named by the founder's key.

    Openness is part of the first block, which every chain of the network begins with: every
    member knows it, and nobody can change it later.
    """
    founder = NodeId(public_key_of(secret).hex())
    rights = Rights(may_invite=True).names | ({_OPEN} if is_open else set())
    block = _Block(network=founder, member=founder, rights=frozenset(rights))
    return bytes(BiscuitBuilder(block.source()).build(_private_key(secret)).to_bytes())


def admit(chain: bytes, *, network: NodeId, secret: bytes, joiner: NodeId, rights: Rights) -> bytes:
    """Return the joiner's chain: ours and one block that we sign.

    Raises NotMember when the chain is not ours, RightMissing when it does not let us do this.
    """
    member = verify_chain(chain, network=network)
    if member.node != public_key_of(secret).hex():
        raise NotMember("the chain names another key than the one that would admit")
    if not member.rights.may_invite:
        raise RightMissing("this member may not invite")
    if member.depth >= ADMISSIONS_LIMIT:
        raise RightMissing(
            f"this member is {ADMISSIONS_LIMIT} admissions away from the founder",
            hint="ask a member nearer to the founder for a ticket",
        )
    block = _Block(network=network, member=joiner, rights=rights.names)
    try:
        biscuit = _open(chain, network)
        signed = biscuit.third_party_request().create_block(
            _private_key(secret), BlockBuilder(block.source())
        )
        key = KeyPair.from_private_key(_private_key(secret)).public_key
        return bytes(biscuit.append_third_party(key, signed).to_bytes())
    except _BISCUIT_ERRORS as error:
        raise NotMember("this node's chain cannot be extended") from error


def verify_chain(chain: bytes, *, network: NodeId) -> Member:
    """Return who the chain names; raise NotMember with the reason.

    The caller compares the member's key with the one its peer has proved to hold.
    """
    if len(chain) > CHAIN_LIMIT_BYTES:
        raise NotMember(f"a membership chain of more than {CHAIN_LIMIT_BYTES} bytes")
    # What the chain says depends on its bytes and the network alone, so it can be remembered.
    digest = blake3(network.encode() + b"\0" + chain).digest()
    if (known := _verified.get(digest)) is None:
        known = _walk(_open(chain, network), network)
        _verified[digest] = known
        if len(_verified) > _CACHE_LIMIT:
            _verified.popitem(last=False)
    else:
        _verified.move_to_end(digest)
    return known


_verified: OrderedDict[bytes, Member] = OrderedDict()


def _walk(biscuit: Biscuit, network: NodeId) -> Member:
    """Follow the admissions from the founder to the last member named."""
    if biscuit.block_count() > ADMISSIONS_LIMIT + 1:
        raise NotMember(f"a membership chain of more than {ADMISSIONS_LIMIT} admissions")
    block = _read_block(biscuit, 0, network)
    if block.member != network or biscuit.block_external_key(0) is not None:
        raise NotMember("the membership chain does not start at the founder")
    is_open = _OPEN in block.rights
    line = [block.member]
    for index in range(1, biscuit.block_count()):
        admission = _read_block(biscuit, index, network)
        # The stub says str, biscuit-python 0.4.0 returns a PublicKey: both print the same.
        if str(biscuit.block_external_key(index)) != f"ed25519/{block.member}":
            raise NotMember("an admission is not signed by the member before it")
        if _INVITE not in block.rights:
            raise NotMember("an admission by a member that may not invite")
        if not admission.rights <= block.rights:
            raise NotMember("an admission gives more rights than its giver has")
        if _OPEN in admission.rights:
            raise NotMember("an admission that passes on what only the founder can say")
        block = admission
        line.append(block.member)
    return Member(
        node=block.member,
        rights=Rights(may_invite=_INVITE in block.rights),
        depth=biscuit.block_count() - 1,
        admitted_by=line[-2] if len(line) > 1 else None,
        line=tuple(line),
        is_open=is_open,
    )


def _read_block(biscuit: Biscuit, index: int, network: NodeId) -> _Block:
    """Return the facts of a block that says exactly what we would have written."""
    try:
        source = biscuit.block_source(index)
    except _BISCUIT_ERRORS as error:
        raise NotMember("the membership chain has an unreadable block") from error
    return _facts_of(source, network)


@lru_cache(_BLOCKS_LIMIT)
def _facts_of(source: str, network: NodeId) -> _Block:
    if (match := _BLOCK.fullmatch(source)) is None:
        raise NotMember("the membership chain says something that no member writes")
    block = _Block(
        network=NodeId(match["network"]),
        member=NodeId(match["member"]),
        rights=frozenset(_RIGHT.findall(match["rights"])),
    )
    if block.source() != source:
        raise NotMember("the membership chain says something twice or out of order")
    if block.network != network:
        raise NotMember("a block of the membership chain is about another network")
    return block


def _open(chain: bytes, network: NodeId) -> Biscuit:
    """Check every signature, the first against the network's key."""
    try:
        return Biscuit.from_bytes(chain, _root(network))
    except _BISCUIT_ERRORS as error:
        raise NotMember("the membership chain is damaged or of another network") from error


@lru_cache(_NETWORKS_LIMIT)
def _root(network: NodeId) -> PublicKey:
    return PublicKey(f"ed25519/{network}")


def _private_key(secret: bytes) -> PrivateKey:
    return PrivateKey(f"ed25519-private/{secret.hex()}")
