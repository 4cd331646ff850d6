"""The heads of requests and answers: judged, and written anew by h11.

What two readers could understand differently is refused, or leaves here in one spelling. Nothing
that says where a request comes from is believed: it is said anew.
"""

from __future__ import annotations

from dataclasses import dataclass

import h11

from p2prc.protocol.domains import read_host

HEADERS_LIMIT = 100
_FRAMING = frozenset({b"transfer-encoding", b"content-length"})
_HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"http2-settings",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"upgrade",
    }
)
_ORIGIN = frozenset({b"forwarded", b"x-real-ip", b"proxy"})
"""What says where a request comes from; `Proxy` becomes a variable that programs of CGI obey."""
_ORIGIN_PREFIX = b"x-forwarded-"
_WEBSOCKET = b"websocket"
_REASONS = {
    400: "Bad Request",
    404: "Not Found",
    421: "Misdirected Request",
    431: "Request Header Fields Too Large",
    502: "Bad Gateway",
    503: "Service Unavailable",
}
Pairs = list[tuple[bytes, bytes]]


class BadRequest(Exception):
    """A request that is not carried out; `status` is what it is answered."""

    def __init__(self, status: int = 400) -> None:
        super().__init__(_REASONS[status])
        self.status = status


class BadAnswer(Exception):
    """An answer that cannot be passed on."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a connection came from. `server_name` is what TLS was asked for, ended here."""

    client: str
    scheme: str
    port: int
    server_name: str | None = None


@dataclass(frozen=True, slots=True)
class Judged:
    """What is asked for, of which host. `wants_upgrade`: it would speak WebSocket."""

    host: str
    request: h11.Request
    wants_upgrade: bool


def judge(request: h11.Request, origin: Origin) -> Judged:
    """Say which host is meant, and what to send there. Raises BadRequest."""
    pairs = [(bytes(name), bytes(value)) for name, value in request.headers]
    if len(pairs) > HEADERS_LIMIT:
        raise BadRequest(431)
    _check_framing(pairs, request)
    hosts = [value for name, value in pairs if name == b"host"]
    if len(hosts) > 1:
        raise BadRequest
    target = request.target
    if target[:1] != b"/" and not (target == b"*" and request.method == b"OPTIONS"):
        target = _path_of(target, hosts)
    host = read_host(hosts[0].decode("latin-1")) if hosts else None
    if host is None:
        raise BadRequest(404)
    if origin.server_name is not None and host != origin.server_name:
        # Who was promised one host by a certificate speaks to that one.
        raise BadRequest(421)
    wants_upgrade = _wants_websocket(request, pairs)
    kept = _kept(request.headers.raw_items(), pairs)
    kept += [
        (b"X-Forwarded-For", origin.client.encode()),
        (b"X-Forwarded-Host", hosts[0]),
        (b"X-Forwarded-Port", str(origin.port).encode()),
        (b"X-Forwarded-Proto", origin.scheme.encode()),
        (b"X-Real-IP", origin.client.encode()),
    ]
    if wants_upgrade:
        kept += [(b"Connection", b"Upgrade"), (b"Upgrade", _WEBSOCKET)]
    sent = h11.Request(method=request.method, target=target, headers=kept)
    return Judged(host, sent, wants_upgrade)


def answer_of(response: h11.Response) -> h11.Response:
    """Return a service's answer as the client gets it. Raises BadAnswer."""
    pairs = [(bytes(name), bytes(value)) for name, value in response.headers]
    if len({name for name, _ in pairs if name in _FRAMING}) > 1:
        raise BadAnswer("a length and a coding contradict each other")
    return h11.Response(
        status_code=response.status_code,
        headers=_kept(response.headers.raw_items(), pairs, is_answer=True),
        reason=response.reason,
    )


def informational_of(response: h11.InformationalResponse) -> h11.InformationalResponse:
    """Return what a service says before its answer, a change of protocol among it."""
    pairs = [(bytes(name), bytes(value)) for name, value in response.headers]
    kept = _kept(response.headers.raw_items(), pairs, is_answer=True)
    if response.status_code == 101:
        kept += [(b"Connection", b"Upgrade"), (b"Upgrade", _WEBSOCKET)]
    return h11.InformationalResponse(
        status_code=response.status_code, headers=kept, reason=response.reason
    )


def plain_answer(status: int, *, is_head: bool = False) -> bytes:
    """Return an answer that says nothing but its status, and ends the connection."""
    reason = _REASONS[status]
    body = f"{reason.lower()}\n"
    return (
        f"HTTP/1.1 {status} {reason}\r\nContent-Type: text/plain\r\nConnection: close\r\n"
        f"Content-Length: {len(body)}\r\n\r\n{'' if is_head else body}"
    ).encode()


def text_answer(content: bytes) -> bytes:
    """Return an answer of the gateway's own: what an authority for certificates asks for."""
    return (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nConnection: close\r\n"
        b"Content-Length: %d\r\n\r\n" % len(content)
    ) + content


def redirect(host: str, target: bytes, port: int) -> bytes:
    """Return the answer that a host is spoken to by TLS alone."""
    where = f"https://{host}" + ("" if port == 443 else f":{port}")
    return (
        f"HTTP/1.1 308 Permanent Redirect\r\nLocation: {where}".encode()
        + (target if target[:1] == b"/" else b"/")
        + b"\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    )


def _check_framing(pairs: Pairs, request: h11.Request) -> None:
    # h11 refuses codings other than chunked, and lengths that contradict each other.
    present = [name for name, _ in pairs if name in _FRAMING]
    if len(set(present)) > 1 or present.count(b"transfer-encoding") > 1:
        raise BadRequest
    if b"transfer-encoding" in present and request.http_version < b"1.1":
        raise BadRequest
    if request.method == b"CONNECT":
        raise BadRequest


def _path_of(target: bytes, hosts: list[bytes]) -> bytes:
    """Return the path of a target that names its host too: the same one, or it is refused."""
    for scheme in (b"http://", b"https://"):
        if target[: len(scheme)].lower() == scheme:
            rest = target[len(scheme) :]
            end = min((rest.index(mark) for mark in (b"/", b"?") if mark in rest), default=None)
            authority, path = (rest, b"/") if end is None else (rest[:end], rest[end:])
            if authority.lower() not in [each.lower() for each in hosts]:
                raise BadRequest
            return path if path[:1] == b"/" else b"/" + path
    raise BadRequest


def _wants_websocket(request: h11.Request, pairs: Pairs) -> bool:
    upgrades = [value.strip().lower() for name, value in pairs if name == b"upgrade"]
    return (
        upgrades == [_WEBSOCKET]
        and request.method == b"GET"
        and request.http_version >= b"1.1"
        and b"upgrade" in _listed(pairs)
        and not any(name in _FRAMING and value != b"0" for name, value in pairs)
    )


def _listed(pairs: Pairs) -> set[bytes]:
    return {
        word.strip().lower()
        for name, value in pairs
        if name == b"connection"
        for word in value.split(b",")
    }


def _kept(raw: Pairs, pairs: Pairs, *, is_answer: bool = False) -> Pairs:
    """Leave out what is for this hop only, and of a request what says where it comes from."""
    # What a hop needs is not dropped at another's word.
    dropped = _HOP_BY_HOP | (_listed(pairs) - _FRAMING - {b"host", b"cookie", b"authorization"})
    return [
        (bytes(name), bytes(value))
        for name, value in raw
        if (low := bytes(name).lower()) not in dropped and (is_answer or not _says_origin(low))
    ]


def _says_origin(name: bytes) -> bool:
    # Many programs read `_` and `-` as one.
    spelled = name.replace(b"_", b"-")
    return spelled in _ORIGIN or spelled.startswith(_ORIGIN_PREFIX)
