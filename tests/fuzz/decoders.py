"""Every place where bytes from somebody else become values, with examples to mutate.

A decoder returns, or refuses with one of ours: anything else is a crash that a stranger can cause.
The property tests beside this file and `make fuzz` both run over this list.
"""

from __future__ import annotations

import gzip
import time
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from p2prc.authority import (
    admit,
    commitment_to,
    found_network,
    read_ticket,
    shown_half,
    verify_chain,
    write_ticket,
)
from p2prc.authority.chains import Rights
from p2prc.client.results import decode as decode_value
from p2prc.client.sent.values import encode as encode_value
from p2prc.errors import UntrustedResult
from p2prc.model.identity import AttemptId, BlobId, JobId, LeaseId, NodeId
from p2prc.model.notice import Revocation, open_notice, sign_notice
from p2prc.model.reading_pass import author_of_pass, write_pass
from p2prc.model.recipe import Piece, Recipe, decode_recipe
from p2prc.model.record import NodeRecord, open_record, sign_record
from p2prc.model.ticket import OPENER_BYTES, Ticket
from p2prc.model.tree import FileEntry, Tree, decode_tree
from p2prc.model.workload import Command
from p2prc.node.spare_network import SpareContent, spare_codec
from p2prc.protocol import carriage, messages
from p2prc.protocol.client_hello import read_hello
from p2prc.protocol.jobs.check import job_codec
from p2prc.protocol.jobs.facts import CoordinatorTook, KeepersNamed, TaskSucceeded
from p2prc.protocol.jobs.pages import LogLength, Page, open_page, sign_page
from p2prc.protocol.jobs.status_lines import StatusReader
from p2prc.protocol.messages import bulk_codec, letter_codec, opening_codec, session_codec
from p2prc.protocol.port_mapping import read_pcp, read_pmp, read_pmp_address
from p2prc.protocol.relay_frames import Datagrams, ping, read_auth, read_frame, received
from p2prc.protocol.upnp import read_location
from p2prc.reachability.lan_word import seal, unseal
from p2prc.reachability.xml_values import read_xml
from p2prc.relay.admission import Household, RelayAdmission, member_bearer
from p2prc.scenes.blend import read_version
from p2prc.templates.document import read_document
from p2prc.templates.plan import Fault, Order, answer_codec, order_codec
from p2prc.templates.ranges import read_range
from p2prc.wire.codec import Codec, encode
from p2prc.wire.framing import FrameReader, frame
from p2prc.wire.signed import Envelope, public_key_of

SECRET, OTHER = b"\1" * 32, b"\2" * 32
NODE, PEER = (NodeId(public_key_of(secret).hex()) for secret in (SECRET, OTHER))
CHAIN = admit(
    found_network(SECRET), network=NODE, secret=SECRET, joiner=PEER, rights=Rights(may_invite=True)
)
BLOB = BlobId("ab" * 32)
_HELLO = (
    "16030100500100004c0303" + "07" * 32 + "00" + "0004" + "13011302" + "0100"
    "001f" + "0000000f000d00000a6170702e782e74657374" + "002b0003020304" + "ff010001" + "00"
)
_envelope: Codec[Envelope] = Codec(Envelope, limit_bytes=16 << 10)


@dataclass(frozen=True, slots=True)
class Decoder:
    """One decoder. `modules` are those whose codecs it exercises."""

    name: str
    decode: Callable[[bytes], object]
    examples: tuple[bytes, ...]
    codecs: tuple[str, ...] = ()


def _frames(content: bytes) -> object:
    reader = FrameReader(limit_bytes=1 << 16)
    found = []
    for start in range(0, len(content), 7):
        reader.feed(content[start : start + 7])
        found += reader.drain()
        assert reader.pending_bytes <= (1 << 16) + 7
    return found


def _record(content: bytes) -> object:
    return open_record(_envelope.decode(content))


def _notice(content: bytes) -> object:
    return open_notice(_envelope.decode(content))


def _bearer(content: bytes) -> object:
    return _admission(PEER, content.decode("latin-1"))


def _pcp(content: bytes) -> object:
    return read_pcp(content, "udp", 0, nonce=b"n" * 12)


def _pmp(content: bytes) -> object:
    return read_pmp(content, "udp", 0)


def _ticket(content: bytes) -> object:
    return read_ticket(content.decode("utf-8", "replace"))


def _carried(content: bytes) -> object:
    """One side of a conversation, from the bytes of its peer."""
    frames, sending, receiving = carriage.Frames(), carriage.Sending(), carriage.Receiving()
    found = list(frames.feed(content))
    for each in found:
        match each:
            case carriage.Data():
                receiving.arrived(each)
            case carriage.Ack():
                sending.acknowledged(each)
            case carriage.End():
                receiving.ended(each.offset)
            case _:
                pass
    return found


def _document(content: bytes) -> object:
    text = content.decode("utf-8", "replace")
    return read_document(text, "fuzz.json" if text.startswith("{") else "fuzz.yaml")


def _status_lines(content: bytes) -> object:
    reader = StatusReader()
    found = [reader.feed(content[at : at + 5]) for at in range(0, len(content), 5)]
    return [*found, reader.finish()]


def _range(content: bytes) -> object:
    return read_range(content.decode("latin-1"))


def _chain(content: bytes) -> object:
    return verify_chain(content, network=NODE)


def _function_result(content: bytes) -> object:
    try:
        return decode_value(content)
    except UntrustedResult:
        return None


_PASS = write_pass(BLOB, PEER, now=1000.0, secret=SECRET)
_OPENER = b"\7" * OPENER_BYTES


def _example_ticket() -> bytes:
    ticket = Ticket(
        network=NODE,
        issuer=NODE,
        addresses=("192.0.2.1:8088", "[2001:db8::1]:8088", "example.org:1"),
        expires_at=int(time.time()) + 3600,
        may_invite=True,
        commitment=commitment_to(_OPENER),
        reach="internet",
    )
    return write_ticket(ticket, secret=SECRET, opener=_OPENER).encode()


def _example_half() -> bytes:
    return shown_half(_example_ticket().decode()).encode()


def _letters(*bodies: messages.Control) -> tuple[bytes, ...]:
    return tuple(encode(messages.Letter(number, False, body)) for number, body in enumerate(bodies))


_RECORD = NodeRecord(
    node=NODE, network=NODE, version=1, name="ada", membership=CHAIN, metadata={"a": "b"}
)
_SIGNED = sign_record(_RECORD, SECRET)
_NOTICE = sign_notice(Revocation(network=NODE, node=PEER, membership=CHAIN), SECRET)
_DATAGRAMS = Datagrams(b"\1" * 32, is_batch=False, rest=memoryview(b"\0payload"))
_admission = RelayAdmission(
    Household(
        network=lambda: NODE,
        issuer=lambda node: None,
        judge=lambda member: None,
        now=lambda: 0.0,
    )
)


def _job_page(content: bytes) -> object:
    return open_page(_envelope.decode(content))


_LOGS = (LogLength(NODE, "cd" * 10, 3),)
_PAGE = Page(
    JobId("ab" * 10),
    "cd" * 10,
    0,
    (
        KeepersNamed((PEER,), 1.0),
        CoordinatorTook(1, NODE, 2.0),
        TaskSucceeded(0, 1, 1000, PEER, 3.0, outputs=BLOB, is_collected=False),
    ),
)


def _lan_word(content: bytes) -> object:
    return unseal(content, network=NODE, port=8088)


_ORDER = Order("name: x", "x.yaml", "/", "/", {"a": "b"})

DECODERS = (
    Decoder("frames", _frames, (frame(b"abc") * 3, b"\xff" * 9)),
    Decoder(
        "opening",
        opening_codec.decode,
        (
            encode(messages.Hello(NODE, CHAIN)),
            encode(messages.Join(NODE, "p2prc2abc", name="bob")),
            encode(messages.Admitted(CHAIN)),
            encode(messages.Refused("no", "because", "ask")),
        ),
        ("opening_codec",),
    ),
    Decoder(
        "letter",
        letter_codec.decode,
        _letters(
            messages.Ping(),
            messages.Delta((_SIGNED.envelope,)),
            messages.LeaseGranted(LeaseId("cd" * 16), 1.5, "sandboxed"),
            messages.StartAttempt(LeaseId("cd" * 16), AttemptId("ef" * 16), Command(("true",))),
            messages.SyncLedger(JobId("ab" * 10), 1, True, _LOGS, (sign_page(SECRET, _PAGE),)),
            messages.LedgerSynced(None, False, _LOGS),
            messages.KeepJob(JobId("ab" * 10), BLOB),
            messages.SucceedCoordinator(JobId("ab" * 10), NODE, sign_page(SECRET, _PAGE)),
            messages.ReadLedger(JobId("ab" * 10), b"\1" * 32, _LOGS),
            messages.OpenMapping("ab" * 5, "udp", 20001, 60.0),
            messages.MappingOpened(20001, ("192.0.2.1",)),
            messages.OpenMapping("ab" * 5, domain="app.example.org", is_tls=True),
            messages.MappingOpened(443, is_tls=True, certificate_ends_at=2e9, trouble="soon over"),
            messages.EndMapping("ab" * 5),
            messages.Refused("no", "because"),
        ),
        ("letter_codec",),
    ),
    Decoder(
        "session",
        session_codec.decode,
        (
            encode(messages.RunCommand(LeaseId("cd" * 16), Command(("echo", "x")))),
            encode(messages.Output(1, b"abc")),
            encode(messages.Exec(LeaseId("cd" * 10), ("sh",), {"A": "b"}, takes_input=True)),
            encode(messages.DialService("8080", "udp")),
            encode(messages.OpenSsh(LeaseId("cd" * 10), b"\7" * 16)),
            encode(messages.TakeConnection("ab" * 5, "192.0.2.1:5000")),
            encode(messages.PutFiles(LeaseId("cd" * 10), "folder")),
            encode(messages.Resize(messages.TerminalSize(30, 100))),
        ),
        ("session_codec",),
    ),
    Decoder(
        "bulk",
        bulk_codec.decode,
        (
            encode(messages.FetchBlobs(BLOB, (BLOB, BLOB))),
            encode(messages.BlobHeader(BLOB, 5)),
            encode(messages.FetchTree(BLOB)),
            encode(messages.FetchRecipe(BLOB, BLOB)),
            encode(messages.AskSources(BLOB)),
            encode(messages.Sources(_PASS, (NODE,))),
            encode(messages.AskHave(BLOB, _PASS)),
            encode(messages.Have(BLOB, b"\xff\x80")),
            encode(messages.CarryOn(b"\7" * 16)),
            encode(messages.SendFiller(5)),
            encode(messages.TakeFiller(messages.FILLER_LIMIT_BYTES)),
            encode(messages.Filler(1)),
        ),
        ("bulk_codec",),
    ),
    Decoder(
        "carried frames",
        _carried,
        (carriage.data_head(0, 3) + b"abc" + carriage.ask_frame() + carriage.end_frame(3),),
    ),
    Decoder("record", _record, (encode(_SIGNED.envelope),), ("_codec", "_envelopes")),
    Decoder(
        "spare membership",
        spare_codec.decode,
        (encode(SpareContent(NODE.encode(), CHAIN, (_SIGNED.envelope,))),),
        ("spare_codec",),
    ),
    Decoder("job page", _job_page, (encode(sign_page(SECRET, _PAGE)),), ("_codec",)),
    Decoder("notice", _notice, (encode(_NOTICE.envelope),), ("_codec",)),
    Decoder("relay client", read_frame, (received(b"\1" * 32, _DATAGRAMS), ping(b"12345678"))),
    Decoder("relay proof", read_auth, (b"\1" + b"\2" * 32 + b"\x40" + b"\3" * 64,)),
    Decoder("relay bearer", _bearer, (member_bearer(CHAIN).encode(), _example_half())),
    Decoder("PCP", _pcp, (b"\2\x81" + bytes(22) + b"n" * 12 + b"\x11" + bytes(23),)),
    Decoder("NAT-PMP", _pmp, (b"\0\x81" + bytes(14),)),
    Decoder("NAT-PMP address", read_pmp_address, (b"\0\x80" + bytes(10),)),
    Decoder(
        "UPnP location",
        lambda content: read_location(content, "10.0.0.1"),
        (b"HTTP/1.1 200 OK\r\nLOCATION: http://10.0.0.1:5000/root.xml\r\n\r\n",),
    ),
    Decoder("ClientHello", read_hello, (bytes.fromhex(_HELLO),)),
    Decoder("chain", _chain, (CHAIN, found_network(SECRET))),
    Decoder("ticket", _ticket, (_example_ticket(),)),
    Decoder(
        "recipe",
        lambda content: decode_recipe(content, size_bytes=7),
        (encode(Recipe((Piece(BLOB, 3), Piece(BLOB, 4)))),),
        ("recipe_codec",),
    ),
    Decoder(
        "reading pass",
        lambda content: author_of_pass(content, tree=BLOB, reader=PEER, now=1000.0),
        (_PASS,),
        ("_codec", "_envelopes"),
    ),
    Decoder("tree", decode_tree, (encode(Tree((FileEntry("a/b", BLOB, 3),))),), ("_codec",)),
    Decoder("job", job_codec.decode, (msgspec.msgpack.encode({"name": "x"}),), ("job_codec",)),
    Decoder("template order", order_codec.decode, (encode(_ORDER),), ("order_codec",)),
    Decoder("plan", answer_codec.decode, (encode(Fault("x")),), ("answer_codec",)),
    Decoder(
        "template document",
        _document,
        (
            b"name: x\nsteps:\n- {a: &b [1, 2.5, yes], c: *b, d: null}\n- |\n  text\n",
            b'{"name": "x", "steps": [{"a": 1e3, "b": [true, null]}]}',
        ),
    ),
    Decoder(
        "status lines",
        _status_lines,
        (b"x\nopenjd_progress: 5.5\nopenjd_env: A=b\nopenjd_unset_env: A\nopenjd_fail: no\n",),
    ),
    Decoder(
        "blend header",
        read_version,
        (
            b"BLENDER-v405REND" + bytes(40),
            b"BLENDER17-01v0500REND" + bytes(40),
            gzip.compress(b"BLENDER_V293REND" + bytes(400), mtime=0),
        ),
    ),
    Decoder("template range", _range, (b"1-10:2, 30-20:-3,7", b"-5--1")),
    Decoder("router xml", read_xml, (b"<a x='1'><b>text</b><c/></a>",)),
    Decoder(
        "function result",
        _function_result,
        (encode_value([1, (2.5, None), {"a": b"x"}, 1 << 90]), encode_value("text")),
    ),
    Decoder("lan word", _lan_word, (seal(PEER, network=NODE, port=8088, nonce=b"n" * 12),)),
)
