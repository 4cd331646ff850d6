"""One file that is all of p2prc, the interpreter inside: `dist/p2prc-VERSION-PLATFORM`.

A short shell script with an archive behind it. At its first start it unpacks itself into
`~/.cache/p2prc`, under the name of its content, then it starts what lies there: some milliseconds
later than an installed p2prc, and by a real interpreter, which sandboxes need as well.

The interpreter is a relocatable one (python-build-standalone: `uv python install`) where `--python`
names it. Any other is made relocatable here: the libraries that it is linked to come along, and
patchelf tells it where they are. Such a file runs where the C library is as new as here.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parents[1]
LIMIT_BYTES = 120 << 20
LEFT_OUT = {
    "test", "tests", "idlelib", "tkinter", "turtledemo", "lib2to3", "ensurepip", "__pycache__",
    "site-packages", "pydoc_data",
}  # fmt: skip
OF_THE_SYSTEM = re.compile(
    r"(linux-vdso|ld-linux.*|libc|libm|libdl|libpthread|librt|libutil|libgcc_s|libstdc\+\+)\.so.*"
)
STARTER = """#!/bin/sh
# p2prc {version}: unpacks itself once, then starts what it unpacked.
set -e
root="${{P2PRC_UNPACKED:-${{XDG_CACHE_HOME:-$HOME/.cache}}/p2prc}}/{mark}"
if [ ! -e "$root/complete" ]; then
    mkdir -p "${{root%/*}}"
    room=$(mktemp -d "$root.XXXXXX")
    chmod 755 "$room"
    tail -c +{offset} "$0" | tar -xzf - -C "$room"
    : > "$room/complete"
    mv "$room" "$root" 2>/dev/null || rm -rf "$room"
    rm -rf "$root/${{room##*/}}"
fi
exec "$root/bin/python3" -P -m p2prc "$@"
"""


def main() -> None:
    """Build it, try it, and say how large it is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", type=Path, help="the interpreter to put in; else this one")
    parser.add_argument("--out", type=Path, default=ROOT / "dist")
    given = parser.parse_args()
    prefix, version = _prefix(given.python)
    with tempfile.TemporaryDirectory(prefix="p2prc-executable-") as room:
        stage = Path(room) / "stage"
        _copy_interpreter(prefix, version, stage)
        _install(stage, version, Path(room))
        _forget_needless(stage / "lib" / f"python{version}" / "site-packages")
        _make_relocatable(stage, prefix)
        python = stage / "bin" / "python3"
        _run([str(python), "-P", "-m", "compileall", "-q", "-j0", "--invalidation-mode",
              "unchecked-hash", str(stage / "lib")], check=False)  # fmt: skip
        made = _packed(stage, Path(room), given.out, _version(python))
    size = made.stat().st_size
    said = _run([str(made), "--version"])
    print(f"{made}: {size / (1 << 20):.1f} MiB; {said}")
    if size > LIMIT_BYTES:
        sys.exit(f"it is larger than {LIMIT_BYTES >> 20} MiB")


def _prefix(python: Path | None) -> tuple[Path, str]:
    program = str(python) if python else sys.executable
    code = "import sys; print(sys.base_prefix); print('%d.%d' % sys.version_info[:2])"
    prefix, version = _run([program, "-c", code]).splitlines()
    return Path(prefix), version


def _copy_interpreter(prefix: Path, version: str, stage: Path) -> None:
    (stage / "bin").mkdir(parents=True)
    shutil.copy2(prefix / "bin" / f"python{version}", stage / "bin" / f"python{version}")
    (stage / "bin" / "python3").symlink_to(f"python{version}")

    def needless(folder: str, names: list[str]) -> set[str]:
        large = {
            name for name in names if name.endswith((".a", ".pyc")) or name.startswith("config-")
        }
        return {name for name in names if name in LEFT_OUT} | large

    library = f"python{version}"
    shutil.copytree(
        prefix / "lib" / library, stage / "lib" / library, ignore=needless, symlinks=True
    )
    (stage / "lib" / library / "site-packages").mkdir(exist_ok=True)
    for shared in (prefix / "lib").glob("libpython*.so*"):
        shutil.copy2(shared, stage / "lib" / shared.name, follow_symlinks=False)


def _install(stage: Path, version: str, room: Path) -> None:
    uv = shutil.which("uv") or str(Path(sys.executable).with_name("uv"))
    wanted, wheels = room / "wanted.txt", room / "wheels"
    _run([uv, "export", "--frozen", "--no-dev", "--no-emit-project", "--quiet", "-o", str(wanted)])
    _run([uv, "build", "--wheel", "--quiet", "--out-dir", str(wheels)])
    place = str(stage / "lib" / f"python{version}" / "site-packages")
    install = [uv, "pip", "install", "--quiet", "--target", place, "--python-version", version]
    _run([*install, "-r", str(wanted)])
    _run([*install, "--no-deps", *map(str, wheels.glob("*.whl"))])


def _forget_needless(packages: Path) -> None:
    """Leave out what only developers of those packages need."""
    if (packages / "bin" / "uv").exists():
        (packages / "bin" / "uv").rename(packages.parents[2] / "bin" / "uv")
    for folder in [*packages.rglob("tests"), *packages.rglob("__pycache__"), packages / "bin"]:
        shutil.rmtree(folder, ignore_errors=True)
    for file in [*packages.rglob("*.pyi"), *packages.rglob("*.pyx"), *packages.rglob("*.c")]:
        file.unlink()


def _make_relocatable(stage: Path, prefix: Path) -> None:
    """Bring the libraries that the interpreter is linked to, and tell it where they are."""
    if sys.platform != "linux" or "python-build-standalone" in str(prefix) or not _is_linked(stage):
        return
    patchelf = _patchelf()
    own = [(stage / "bin" / "python3").resolve()]
    own += stage.glob("lib/python*/lib-dynload/*.so")
    waiting, brought = list(own), set[str]()
    while waiting:
        for name, path in _linked(waiting.pop()):
            if name in brought or OF_THE_SYSTEM.fullmatch(name):
                continue
            brought.add(name)
            target = stage / "lib" / name
            if not target.exists():
                shutil.copy2(path, target)
            waiting.append(target)
    for file in [*own, *(stage / "lib" / name for name in brought)]:
        up = os.path.relpath(stage / "lib", file.parent)
        _run([*patchelf, "--set-rpath", f"$ORIGIN/{up}", str(file)])


def _is_linked(stage: Path) -> bool:
    python = stage / "bin" / "python3"
    return any(not OF_THE_SYSTEM.fullmatch(name) for name, _ in _linked(python))


def _linked(file: Path) -> Iterable[tuple[str, Path]]:
    said = _run(["ldd", str(file)], check=False)
    for name, path in re.findall(r"^\s*(\S+) => (/\S+)", said, re.MULTILINE):
        yield name, Path(path)


def _patchelf() -> list[str]:
    if found := shutil.which("patchelf"):
        return [found]
    uv = shutil.which("uv") or str(Path(sys.executable).with_name("uv"))
    return [uv, "tool", "run", "--quiet", "patchelf"]


def _version(python: Path) -> str:
    return _run([str(python), "-P", "-c", "import p2prc; print(p2prc.__version__)"]).strip()


def _packed(stage: Path, room: Path, out: Path, version: str) -> Path:
    archive = room / "archive.tar.gz"
    with tarfile.open(archive, "w:gz", compresslevel=9) as packed:
        for path in sorted(stage.iterdir()):
            packed.add(path, path.name, filter=_plain)
    mark = hashlib.sha256(archive.read_bytes()).hexdigest()[:16]
    offset = 0
    # The offset is in the text that it is the length of.
    while offset != (length := len(_starter(version, mark, offset)) + 1):
        offset = length
    out.mkdir(parents=True, exist_ok=True)
    made = out / f"p2prc-{version}-{sysconfig.get_platform()}"
    with made.open("wb") as file:
        file.write(_starter(version, mark, offset))
        file.write(archive.read_bytes())
    made.chmod(0o755)
    return made


def _starter(version: str, mark: str, offset: int) -> bytes:
    return STARTER.format(version=version, mark=mark, offset=offset).encode()


def _plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    entry.mtime = 0
    return entry


def _run(words: list[str], *, check: bool = True) -> str:
    done = subprocess.run(words, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=check)
    return done.stdout.strip()


if __name__ == "__main__":
    main()
