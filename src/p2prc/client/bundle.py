"""The program that an interpreter at a provider runs, as one archive: ours, and what it imports."""

from __future__ import annotations

import io
import zipfile
from functools import cache
from importlib import resources

_MODULES = {
    "p2prc_sent": ("p2prc.client.sent", ("__init__", "values", "worker")),
    "cloudpickle": ("cloudpickle", ("__init__", "cloudpickle", "cloudpickle_fast")),
    "msgpack": ("msgpack", ("__init__", "exceptions", "ext", "fallback")),
}
_START = """
import os, sys, tempfile
size = int(sys.argv[1])
content = b""
while len(content) < size:
    piece = os.read(0, size - len(content))
    if not piece:
        sys.exit("the program was cut short")
    content += piece
handle, place = tempfile.mkstemp(suffix=".zip")
with open(handle, "wb") as file:
    file.write(content)
sys.path.insert(0, place)
from p2prc_sent.worker import main
main(sys.argv[2:])
"""


def command(python: str, *, is_trusted: bool) -> list[str]:
    """Return what starts a worker; the first bytes of its input are the archive."""
    options = ["--pickle"] * is_trusted
    return [python, "-c", _START, str(len(archive())), *options]


@cache
def archive() -> bytes:
    """Return the archive: pure Python, for any minor version that p2prc runs on."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as packed:
        for package, (origin, names) in _MODULES.items():
            for name in names:
                source = resources.files(origin).joinpath(f"{name}.py").read_bytes()
                packed.writestr(f"{package}/{name}.py", source)
    return content.getvalue()
