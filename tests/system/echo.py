"""A service that echoes, and somebody who talks to it."""

from __future__ import annotations

import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class Echo(socketserver.BaseRequestHandler):
    """Says what it is told, and `bye` at the end of it."""

    def handle(self) -> None:
        if isinstance(self.request, tuple):
            content, sock = self.request
            sock.sendto(b"echo " + content, self.client_address)
            return
        while content := self.request.recv(1 << 16):
            self.request.sendall(content)
        self.request.sendall(b"bye")


class Threaded(socketserver.ThreadingTCPServer):
    """Serves connections at once."""

    daemon_threads = True


@contextmanager
def echoing(kind: type[socketserver.TCPServer]) -> Iterator[int]:
    """Yield the port of a service while the block lasts."""
    with kind(("127.0.0.1", 0), Echo) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield int(server.socket.getsockname()[1])
        finally:
            server.shutdown()
            thread.join()


def talk(local: str, content: bytes) -> bytes:
    """Send, say that nothing more comes, and return everything that comes back."""
    if "/" in local:
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(local)
    else:
        host, _, port = local.rpartition(":")
        try:
            connection = socket.create_connection((host, int(port)), timeout=10)
        except ConnectionResetError:
            # Taken, and reset at once.
            return b""
    with connection:
        connection.settimeout(10)
        sender = threading.Thread(target=_send, args=(connection, content))
        sender.start()
        found = b""
        with suppress(ConnectionError):
            while piece := connection.recv(1 << 16):
                found += piece
        sender.join()
    return found


def _send(connection: socket.socket, content: bytes) -> None:
    with suppress(OSError):
        connection.sendall(content)
        connection.shutdown(socket.SHUT_WR)
