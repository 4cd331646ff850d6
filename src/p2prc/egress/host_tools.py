"""The machine's programs for interfaces and packet filters: `ip`, `nft`, `iptables`. For root."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
from pathlib import Path

_WITHIN_S = 10.0
_PLACES = "/usr/sbin:/sbin:/usr/local/sbin:/usr/bin:/bin"
_COUNTS = Path("/proc/self/net/dev")
_SENT = 8
_COUNTED = re.compile(r"\tset connections \{.*?\n\t\}\n", re.DOTALL)


class ToolFailed(OSError):
    """A program of the machine did not do what it was told; its own words."""


def missing_tools() -> list[str]:
    """Return which of the needed programs are not there."""
    return [name for name in ("ip", "nft") if shutil.which(name, path=_PLACES) is None]


def run(*words: str, text: str = "", pass_fd: int | None = None) -> str:
    """Run a program and return what it printed. Raises ToolFailed."""
    program = shutil.which(words[0], path=_PLACES)
    if program is None:
        raise ToolFailed(f"`{words[0]}` is not installed")
    try:
        done = subprocess.run(
            [program, *words[1:]],
            input=text,
            capture_output=True,
            text=True,
            timeout=_WITHIN_S,
            check=False,
            pass_fds=() if pass_fd is None else (pass_fd,),
            env={"PATH": _PLACES, "LC_ALL": "C"},
        )
    except subprocess.TimeoutExpired as error:
        raise ToolFailed(f"`{words[0]}` does not answer") from error
    except OSError as error:
        raise ToolFailed(f"`{words[0]}` cannot be run: {error.strerror}") from error
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise ToolFailed(f"`{words[0]}`: {said[0][:200] if said else done.returncode}")
    return done.stdout


def set_rules(text: str) -> None:
    """Have the kernel take a rule set, whole or not at all. Raises ToolFailed."""
    run("nft", "-f", "-", text=text)


def read_table(name: str) -> str:
    """Return a table of ours as the kernel has it, without what is counted; "" without one."""
    try:
        return _COUNTED.sub("", run("nft", "-s", "list", "table", "inet", name))
    except ToolFailed:
        return ""


def refused_packets(table: str) -> int:
    """Return how many packets the table has refused. Raises ToolFailed."""
    words = run("nft", "list", "counter", "inet", table, "refused").split()
    return int(words[words.index("packets") + 1])


def make_pair(name: str, network: int, *, near: str, alias: str = "") -> None:
    """Make an interface with an address here, whose other end is `eth0` in there.

    Raises ToolFailed.
    """
    there = f"/proc/self/fd/{network}"
    run("ip", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", there,
        pass_fd=network)  # fmt: skip
    for key, value in (("ipv6/conf/{}/disable_ipv6", "1"), ("ipv4/conf/{}/rp_filter", "1")):
        path = Path("/proc/sys/net", key.format(name))
        if path.exists():
            # Where it cannot be written, the rules refuse it all the same.
            _try_write(path, value)
    batch = [f"addr add {near}/31 dev {name}", f"link set dev {name} up"]
    if alias:
        batch.insert(0, f'link set dev {name} alias "{alias}"')
    run("ip", "-batch", "-", text="\n".join(batch) + "\n")


def configure_far(*, near: str, far: str) -> None:
    """Give the other end its address and its route; to be called in there. Raises OSError."""
    lines = [
        "link set dev lo up",
        f"addr add {far}/31 dev eth0",
        "link set dev eth0 up",
        f"route add default via {near} dev eth0",
    ]
    run("ip", "-batch", "-", text="\n".join(lines) + "\n")


def is_there(name: str) -> bool:
    """Whether the machine has an interface of this name now."""
    return any(found == name for _, found in socket.if_nameindex())


def remove_interface(name: str) -> None:
    """Remove it, both ends, if it is there. Raises ToolFailed."""
    if is_there(name):
        run("ip", "link", "del", "dev", name)


def interfaces_like(prefix: str) -> list[str]:
    """Return the names of the machine's interfaces that begin so."""
    return sorted(found for _, found in socket.if_nameindex() if found.startswith(prefix))


def alias_of(name: str) -> str:
    """Return what was written beside an interface's name, "" where it cannot be known."""
    try:
        [found] = json.loads(run("ip", "-json", "link", "show", "dev", name))
        return str(found.get("ifalias", ""))
    except (OSError, ValueError):
        return ""


def moved_bytes(name: str) -> tuple[int, int] | None:
    """Return what came through to the other end, and what it sent; None without interface."""
    try:
        # Not /sys: what is mounted there can be another network's.
        lines = _COUNTS.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    for line in lines:
        found, _, counts = line.partition(":")
        if found.strip() == name:
            amounts = counts.split()
            return int(amounts[_SENT]), int(amounts[0])
    return None


def let_docker_forward(prefix: str, *, is_wanted: bool) -> None:
    """Have the chain that Docker leaves to its users let our interfaces through, or not any more.

    Docker drops what others forward. Where there is no such chain there is nothing to do.
    """
    try:
        present = run("iptables", "-w", "5", "-S", "DOCKER-USER")
    except ToolFailed:
        return
    back = ["-m", "conntrack", "--ctstate", "RELATED,ESTABLISHED"]
    for rule in (["-i", f"{prefix}+"], ["-o", f"{prefix}+", *back]):
        is_in = f"-A DOCKER-USER {rule[0]} {rule[1]} " in present
        if is_in != is_wanted:
            action = "-I" if is_wanted else "-D"
            run("iptables", "-w", "5", action, "DOCKER-USER", *rule, "-j", "ACCEPT")


def _try_write(path: Path, value: str) -> None:
    try:
        path.write_text(value, encoding="ascii")
    except OSError:
        return
