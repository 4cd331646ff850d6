"""A thousand no-op commands over three nodes, beside those who only do that.

`python -m benchmarks.commands`: first on this machine (GNU parallel and HyperQueue, three at a time
each), then over three machines (network namespaces, as root), where GNU parallel goes by ssh.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.nat.lab import Host, Place, inside, open_lab, why_not
from tests.nat.nodes import LabNode, join_all
from tests.system.nodes import at_once, stop_all, wait_until

from benchmarks import rivals
from benchmarks.network import MeasuredNode, open_network
from benchmarks.report import FIGURES, Figure, Record
from benchmarks.work import Contender, Race, details

COMMANDS = 1000
SSH_COMMANDS = 300
"""A connection each takes long."""
CHUNK = 20
ROUNDS = 3
SSH_ROUNDS = 2
PLAIN_AT_LEAST = 0.5
CHUNKED_AT_LEAST = 0.8
# `i` is `1-20` then; `true` is a program of its own here, as it is for the others.
_TWENTY = 'i={i}; for n in $(seq "${i%-*}" "${i#*-}"); do /bin/true; done'


def _over(count: int) -> tuple[str, ...]:
    return ("--over", f"i=1-{count}", "--")


def measure(rounds: int) -> Record:
    """Let all take turns, here and then over three machines."""
    found: dict[str, Any] = {}
    figures, missing = [], rivals.missing_for_commands()
    with tempfile.TemporaryDirectory(prefix="p2prc-bench-") as folder:
        race = _here(Path(folder), rounds)
        figures += [*_rates(race, COMMANDS), *_ratios(race)]
        found |= details({"here_s": race})
        if reason := why_not("sshd", "ssh-keygen", "parallel"):
            missing.append(f"three machines by ssh: {reason}")
        else:
            race = _there(Path(folder))
            figures += [*_rates(race, SSH_COMMANDS, "three machines, "), *_ssh_ratios(race)]
            found |= details({"three_machines_s": race})
    return Record("commands", figures, found, missing)


def _here(folder: Path, rounds: int) -> Race:
    with open_network(folder / "here") as nodes, rivals.open_hyperqueue() as hyperqueue:
        node = nodes[0]
        race = Race(
            {
                "p2prc map": _ours(node, *_over(COMMANDS), "true"),
                f"p2prc map --chunk {CHUNK}": _ours(
                    node, "--chunk", str(CHUNK), *_over(COMMANDS), "sh", "-c", _TWENTY
                ),
            }
        )
        if rivals.has_parallel():
            race.contenders["parallel"] = lambda: rivals.parallel_s(["true"], COMMANDS)
        if hyperqueue is not None:
            race.contenders["HyperQueue"] = lambda: hyperqueue.seconds(COMMANDS)
        race.run(rounds)
        return race


def _ours(node: MeasuredNode, *words: str) -> Contender:
    return lambda: rivals.timed(node.argv("map", "--watch", *words))


# -- three machines


def _there(folder: Path) -> Race:
    with open_lab() as lab:
        hosts = [lab.host(name) for name in ("ada", "grace", "linus")]
        nodes = [LabNode(folder, host) for host in hosts]
        try:
            at_once([lambda node=node: node.up("--cpus", "1") for node in nodes])  # type: ignore[misc]
            join_all(nodes)
            with _ssh_servers(hosts, folder) as ssh:
                race = Race(
                    {
                        "p2prc map": _ours_there(nodes[0], *_over(SSH_COMMANDS), "true"),
                        "parallel --sshlogin": _by_ssh(hosts, ssh),
                    }
                )
                race.run(SSH_ROUNDS)
                return race
        finally:
            stop_all(nodes)


def _ours_there(node: LabNode, *words: str) -> Contender:
    def seconds() -> float:
        began = time.perf_counter()
        node.p2prc("map", "--watch", *words, timeout_s=600)
        return time.perf_counter() - began

    return seconds


def _by_ssh(hosts: Sequence[Host], ssh: str) -> Contender:
    logins = ",".join(f"1/{host.address.partition('/')[0]}" for host in hosts)
    numbers = [str(number) for number in range(SSH_COMMANDS)]
    words = ("parallel", "--ssh", ssh, "--sshlogin", logins, "-N0", "true", ":::")
    return lambda: rivals.timed([*hosts[0].within, *words, *numbers])


@contextmanager
def _ssh_servers(hosts: Sequence[Place], folder: Path) -> Iterator[str]:
    """A plain sshd on every host; yields the client's command line."""
    key, known = folder / "key", folder / "host_key"
    for file in (key, known):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(file)], check=True)
    Path("/run/sshd").mkdir(exist_ok=True)
    settings = folder / "sshd_config"
    settings.write_text(
        f"HostKey {known}\nAuthorizedKeysFile {key}.pub\nPermitRootLogin prohibit-password\n"
        "StrictModes no\nUsePAM no\nMaxStartups 100\nMaxSessions 100\nPidFile none\n"
    )
    servers = [host.start("/usr/sbin/sshd", "-D", "-f", str(settings)) for host in hosts]
    try:
        for host in hosts:
            wait_until(lambda host=host: _answers(host), "sshd answers")  # type: ignore[misc]
        yield (
            f"ssh -F none -i {key} -o IdentitiesOnly=yes -o StrictHostKeyChecking=no "
            "-o UserKnownHostsFile=/dev/null -o LogLevel=ERROR"
        )
    finally:
        for server in servers:
            server.terminate()
            server.wait(10)


def _answers(host: Place) -> bool:
    with inside(host.namespace):
        return bool(Path("/proc/thread-self/net/tcp").read_text().count(":0016 "))


# -- figures


def _rates(race: Race, count: int, where: str = "") -> list[Figure]:
    return [
        Figure(f"{where}{count} no-op commands: {name}", count / median_s, "/s")
        for name in race.contenders
        if (median_s := race.median_s(name)) is not None
    ]


def _ratios(race: Race) -> list[Figure]:
    chunked = f"p2prc map --chunk {CHUNK}"
    return [
        *_ratio(race, "p2prc map", "parallel", at_least=PLAIN_AT_LEAST),
        *_ratio(race, chunked, "parallel", at_least=CHUNKED_AT_LEAST),
        *_ratio(race, "p2prc map", "HyperQueue"),
    ]


def _ssh_ratios(race: Race) -> list[Figure]:
    return _ratio(race, "p2prc map", "parallel --sshlogin", at_least=PLAIN_AT_LEAST)


def _ratio(race: Race, ours: str, theirs: str, *, at_least: float | None = None) -> list[Figure]:
    ratio = race.ratio(ours, theirs)
    if ratio is None:
        return []
    return [Figure(f"rate: {ours} / {theirs}", round(ratio, 3), "x", at_least=at_least)]


def main() -> None:
    """Measure, show, keep."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.commands", description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--to", type=Path, default=FIGURES, help="the folder for the record")
    given = parser.parse_args()
    record = measure(max(1, given.rounds))
    for figure in record.figures:
        print(figure, flush=True)
    print(f"kept in {record.keep(given.to)}")


if __name__ == "__main__":
    main()
