"""`make fuzz`: mutate bytes under coverage, one process for each decoder, until time is up.

A crash leaves the input beside `fuzz-findings/`; `python -m tests.fuzz NAME FILE` runs it again.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

FINDINGS = Path("fuzz-findings")
MEMORY_MB = 1024


def main(arguments: Sequence[str] | None = None) -> int:
    """Fuzz every decoder, or run one on a file; 1 when something was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("name", nargs="?", help="only this decoder")
    parser.add_argument("file", nargs="?", type=Path, help="run this input once")
    parser.add_argument("--seconds", type=int, default=20, help="for each decoder")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.inside:
        _fuzz(given.name, given.seconds)
        return 0
    from tests.fuzz.decoders import DECODERS  # noqa: PLC0415 - instrumented in the children only

    chosen = [decoder for decoder in DECODERS if given.name in (None, decoder.name)]
    if not chosen:
        parser.error(f"there are {', '.join(decoder.name for decoder in DECODERS)}")
    if given.file is not None:
        print(chosen[0].decode(given.file.read_bytes()))
        return 0
    failed = []
    for decoder in chosen:
        print(f"-- {decoder.name}, {given.seconds} s", flush=True)
        command = [sys.executable, "-m", "tests.fuzz", decoder.name, "--inside"]
        done = subprocess.run([*command, f"--seconds={given.seconds}"], check=False)
        failed += [decoder.name] * (done.returncode != 0)
    print(f"crashed: {', '.join(failed)}" if failed else "nothing crashed")
    return int(bool(failed))


def _fuzz(name: str, seconds: int) -> None:
    import atheris  # noqa: PLC0415 - only `make fuzz` has it

    with atheris.instrument_imports(include=["p2prc"]):
        from p2prc.errors import P2prcError  # noqa: PLC0415
        from tests.fuzz.decoders import DECODERS  # noqa: PLC0415
    decoder = next(decoder for decoder in DECODERS if decoder.name == name)
    corpus = FINDINGS / f"corpus-{name}"
    corpus.mkdir(parents=True, exist_ok=True)
    for number, example in enumerate(decoder.examples):
        (corpus / f"example-{number}").write_bytes(example)

    def take(content: bytes) -> None:
        with suppress(P2prcError):
            decoder.decode(content)

    options = [
        f"-max_total_time={seconds}",
        f"-rss_limit_mb={MEMORY_MB}",
        "-max_len=70000",
        "-timeout=5",
        "-verbosity=0",
        "-print_final_stats=1",
        f"-artifact_prefix={FINDINGS}/{name}-",
    ]
    atheris.Setup([sys.argv[0], *options, str(corpus)], take)
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
