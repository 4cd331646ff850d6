"""The control API on TCP, for programs that take no Unix socket: whoever shows the token.

Off unless the owner turns it on (`api.listen`), and on this machine's own address unless told
otherwise: it is plain HTTP, and who has the token is the owner.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import os
import secrets
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
from starlette.types import ASGIApp, Receive, Scope, Send

from p2prc.api.listening import serving
from p2prc.api.streaming import error_body
from p2prc.errors import HomeUnusable, NotAllowed, PortTaken

TOKEN_NAME = "api.token"  # noqa: S105 - a file's name
_TOKEN_BYTES = 32
_TOKEN_DIGITS = 2 * _TOKEN_BYTES


@asynccontextmanager
async def open_tcp_door(app: ASGIApp, host: str, port: int, token: str) -> AsyncIterator[str]:
    """Answer who shows the token; give the URL. Raises PortTaken."""
    listener = await asyncio.to_thread(_listen, host or "127.0.0.1", port)
    try:
        bound = listener.getsockname()
        shown = f"[{bound[0]}]" if ":" in bound[0] else bound[0]
        async with serving(_WithToken(app, token), listener):
            yield f"http://{shown}:{bound[1]}"
    finally:
        listener.close()


def token_of(folder: Path) -> str:
    """Return the home's token, made when there is none. Raises HomeUnusable."""
    path = folder / TOKEN_NAME
    try:
        # Nobody else may read it at any moment, so its mode comes with its making.
        with open(path, "x", opener=_private, encoding="ascii") as file:
            file.write(f"{secrets.token_hex(_TOKEN_BYTES)}\n")
    except FileExistsError:
        pass
    except OSError as error:
        raise HomeUnusable(f"cannot write `{path}`: {error.strerror}") from error
    try:
        text = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise HomeUnusable(f"cannot read `{path}`: {error}") from error
    if len(text) < _TOKEN_DIGITS or not text.isalnum():
        raise HomeUnusable(f"`{path}` holds no token", hint="remove it: the next start makes one")
    return text


def is_for_this_machine(host: str) -> bool:
    """Whether only programs of this machine reach the address."""
    try:
        return not host or host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _listen(host: str, port: int) -> socket.socket:
    try:
        [(family, _, _, _, place), *_] = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        listener = socket.create_server(place[:2], family=family, backlog=128)
    except OSError as error:
        raise PortTaken(
            f"the control API cannot listen on {host}:{port}: {error.strerror}",
            hint="another port: `p2prc config set api.listen PORT`",
        ) from error
    listener.setblocking(False)
    return listener


class _WithToken:
    """The API for who shows the token; a refusal, which tells nothing, for anybody else."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._expected = f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            shown = dict(scope["headers"]).get(b"authorization", b"")
            if not hmac.compare_digest(shown, self._expected):
                await _refuse(send)
                return
        await self._app(scope, receive, send)


async def _refuse(send: Send) -> None:
    refusal = NotAllowed(
        "the control API on TCP wants the token of this node",
        hint=f"send `Authorization: Bearer TOKEN`, with the text of {TOKEN_NAME} in its home",
    )
    body = msgspec.json.encode(error_body(refusal))
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"www-authenticate", b"Bearer"),
        # What a stranger sends is not read.
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": 401, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
