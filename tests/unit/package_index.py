"""A package registry on the loopback with wheels made on the spot."""

from __future__ import annotations

import base64
import hashlib
import threading
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

_WHEEL = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


class PackageIndex:
    """Wheels in a folder, served as a simple repository at `url`."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self.url = url

    def add(
        self,
        name: str,
        version: str,
        files: Mapping[str, str | bytes],
        *,
        needs: tuple[str, ...] = (),
    ) -> str:
        """Publish a wheel with these files; return its SHA-256."""
        wheel = self.folder / f"{name}-{version}-py3-none-any.whl"
        information = f"{name}-{version}.dist-info"
        metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        metadata += "".join(f"Requires-Dist: {need}\n" for need in needs)
        contents: dict[str, str | bytes] = {
            **files,
            f"{information}/METADATA": metadata,
            f"{information}/WHEEL": _WHEEL,
        }
        record = ""
        with zipfile.ZipFile(wheel, "w") as archive:
            for path, text in contents.items():
                content = text.encode() if isinstance(text, str) else text
                archive.writestr(path, content)
                digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest())
                record += f"{path},sha256={digest.decode().rstrip('=')},{len(content)}\n"
            archive.writestr(f"{information}/RECORD", f"{record}{information}/RECORD,,\n")
        return self._publish(name, wheel)

    def add_source(self, name: str, version: str) -> str:
        """Publish a package that has no wheel."""
        archive = self.folder / f"{name}-{version}.tar.gz"
        archive.write_bytes(b"not even an archive")
        return self._publish(name, archive)

    def _publish(self, name: str, file: Path) -> str:
        sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
        page = self.folder / "simple" / name / "index.html"
        page.parent.mkdir(parents=True, exist_ok=True)
        with page.open("a", encoding="utf-8") as links:
            links.write(f'<a href="/{file.name}#sha256={sha256}">{file.name}</a>\n')
        return sha256


@contextmanager
def serve_packages(folder: Path) -> Iterator[PackageIndex]:
    folder.mkdir()
    handler = partial(_Quiet, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield PackageIndex(folder, f"http://127.0.0.1:{server.server_port}/simple")
        finally:
            server.shutdown()
            thread.join()
