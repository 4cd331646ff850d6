"""What a tenant asks the proxy for, and what a server answers: read and written anew by h11.

Nothing of either side's framing is passed on: a request or an answer that two readers could
understand differently is refused, or leaves here in one spelling.
"""

from __future__ import annotations

from dataclasses import dataclass

import h11

from p2prc.protocol.egress import EgressRefused, Target, parse_target

_HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"expect",
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
_FRAMING = frozenset({b"transfer-encoding", b"content-length"})
_HTTP_PORT = 80
_HEADERS_LIMIT = 100
_SCHEME = "http://"
Headers = list[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Asked:
    """A request: where to, and for a plain one what to send there."""

    target: Target
    forwarded: h11.Request | None = None

    @property
    def is_tunnel(self) -> bool:
        """Whether it was CONNECT."""
        return self.forwarded is None


def read_request(request: h11.Request) -> Asked:
    """Say what is asked for. Raises EgressRefused."""
    pairs = [(bytes(name), bytes(value)) for name, value in request.headers]
    if len(pairs) > _HEADERS_LIMIT:
        raise EgressRefused(f"more than {_HEADERS_LIMIT} headers", status=431)
    try:
        where = request.target.decode("ascii")
    except UnicodeDecodeError:
        raise EgressRefused("an address is written in ASCII", status=400) from None
    _check_framing(pairs)
    if request.method == b"CONNECT":
        if any(name in _FRAMING for name, value in pairs if value != b"0"):
            raise EgressRefused("CONNECT has no body", status=400)
        return Asked(parse_target(where))
    if not where.lower().startswith(_SCHEME):
        reason = "this is a proxy: ask for http://HOST/PATH, or CONNECT HOST:443"
        raise EgressRefused(reason, status=400)
    authority, path = _split(where[len(_SCHEME) :])
    target = parse_target(authority, default_port=_HTTP_PORT)
    host = str(target).removesuffix(f":{_HTTP_PORT}").encode()
    headers: Headers = [(b"Host", host), (b"Connection", b"close")]
    headers += [(name, value) for name, value in forwardable(pairs) if name != b"host"]
    return Asked(target, h11.Request(method=request.method, target=path.encode(), headers=headers))


def read_answer(response: h11.Response) -> h11.Response:
    """Return a server's answer as the tenant gets it. Raises EgressRefused."""
    pairs = [(bytes(name), bytes(value)) for name, value in response.headers]
    try:
        _check_framing(pairs)
    except EgressRefused as error:
        raise EgressRefused(f"the server's answer: {error.reason}", status=502) from None
    return h11.Response(
        status_code=response.status_code,
        headers=[*forwardable(pairs), (b"Connection", b"close")],
        reason=response.reason,
    )


def refusal(error: EgressRefused) -> bytes:
    """Return the answer to a request that is not carried out."""
    body = f"p2prc: {error.reason}\n".encode()
    reason = error.reason.encode("ascii", "replace").decode()
    return (
        f"HTTP/1.1 {error.status} {reason}\r\nContent-Type: text/plain\r\nConnection: close\r\n"
        f"Content-Length: {len(body)}\r\nX-P2prc-Reason: {reason}\r\n\r\n"
    ).encode() + body


def forwardable(pairs: Headers) -> Headers:
    """Leave out what is for the next hop only, by name or because `Connection` names it."""
    named = {
        word.strip().lower()
        for name, value in pairs
        if name == b"connection"
        for word in value.split(b",")
    }
    return [(name, value) for name, value in pairs if name not in _HOP_BY_HOP | (named - _FRAMING)]


def _check_framing(pairs: Headers) -> None:
    # h11 refuses codings other than chunked, and lengths that contradict each other.
    present = [name for name, _ in pairs if name in _FRAMING]
    if len(set(present)) > 1 or present.count(b"transfer-encoding") > 1:
        raise EgressRefused("a length and a coding contradict each other", status=400)
    if sum(name == b"host" for name, _ in pairs) > 1:
        raise EgressRefused("more than one host is named", status=400)


def _split(rest: str) -> tuple[str, str]:
    end = min((rest.index(mark) for mark in "/?#" if mark in rest), default=len(rest))
    authority, path = rest[:end], rest[end:].partition("#")[0]
    return authority, path if path.startswith("/") else f"/{path}"
