"""Facts about this machine, read when asked: the only door to psutil's totals and to NVML."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import psutil

from p2prc.errors import MachineCannot
from p2prc.model.resources import Gpu, RuntimeOffer
from p2prc.protocol.messages import GpuReading, Specs


def python_version() -> str:
    """Return the interpreter's minor version, `3.11`: what environments are built for."""
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def platform_name() -> str:
    """Return `linux-x86_64` and the like."""
    return f"{platform.system().lower()}-{platform.machine().lower()}"


def core_count() -> int:
    """Return how many cores this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory_bytes() -> int:
    """Return how much memory the machine has."""
    return psutil.virtual_memory().total


def free_disk_bytes(folder: Path) -> int:
    """Return how much room the folder's disk has."""
    return shutil.disk_usage(folder).free


def busy_core_s() -> float:
    """Return how long the machine's cores were busy since it started, without this process."""
    times = psutil.cpu_times()
    # What waits for a disk is not busy; a guest's time is in the user's already.
    # Leases run politely: their time is in `nice`, from where the caller takes it out again.
    kinds = ("user", "nice", "system", "irq", "softirq")
    busy_s = sum(float(getattr(times, kind, 0.0)) for kind in kinds)
    return max(0.0, busy_s - time.process_time())


def input_idle_s() -> float | None:
    """Return for how long nobody typed or moved a pointer, None where the machine does not tell.

    Terminals tell by when they were read; desktops through logind, which is asked where it is.
    May take some milliseconds.
    """
    found = [_terminal_idle_s(), _desktop_idle_s()]
    return min((each for each in found if each is not None), default=None)


def _terminal_idle_s() -> float | None:
    now, newest = time.time(), None
    for folder, pattern in (("/dev/pts", "[0-9]*"), ("/dev", "tty[0-9]*")):
        for terminal in Path(folder).glob(pattern):
            try:
                read_at = terminal.stat().st_atime
            except OSError:
                continue
            newest = read_at if newest is None else max(newest, read_at)
    return None if newest is None else max(0.0, now - newest)


def _desktop_idle_s() -> float | None:
    if shutil.which("loginctl") is None:
        return None
    try:
        told = subprocess.run(
            ["loginctl", "show", "--property=IdleHint", "--property=IdleSinceHint"],
            capture_output=True,
            text=True,
            timeout=2,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    facts = dict(line.partition("=")[::2] for line in told.splitlines())
    if facts.get("IdleHint") == "no":
        return 0.0
    since = facts.get("IdleSinceHint", "")
    return max(0.0, time.time() - int(since) / 1e6) if since.isdigit() and int(since) else None


def read_specs(folder: Path, runtimes: tuple[RuntimeOffer, ...]) -> Specs:
    """Read the machine's facts; takes milliseconds, more where there are graphics cards.

    Raises MachineCannot.
    """
    try:
        disk_bytes = shutil.disk_usage(folder).total
    except OSError as error:
        raise MachineCannot(f"the node's disk cannot be read: {error.strerror}") from error
    return Specs(
        hostname=socket.gethostname()[:200],
        platform=platform_name(),
        cpu=_processor_name(),
        cpus=core_count(),
        memory_bytes=memory_bytes(),
        disk_bytes=disk_bytes,
        gpus=read_gpus(),
        runtimes=runtimes,
    )


@cache
def card_count() -> int:
    """Return how many graphics cards the driver showed when this was first asked."""
    return len(read_gpus())


def read_gpus() -> tuple[GpuReading, ...]:
    """Return the NVIDIA cards that the driver shows; none where there is no driver."""
    # Most nodes have no card, or are never asked: they do without its megabytes.
    import pynvml  # noqa: PLC0415

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return ()
    try:
        return tuple(_read_gpu(index) for index in range(pynvml.nvmlDeviceGetCount()))
    except pynvml.NVMLError:
        return ()
    finally:
        pynvml.nvmlShutdown()


def _read_gpu(index: int) -> GpuReading:
    import pynvml  # noqa: PLC0415

    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    card = Gpu(
        name=str(pynvml.nvmlDeviceGetName(handle))[:200],
        memory_bytes=int(pynvml.nvmlDeviceGetMemoryInfo(handle).total),
        driver=str(pynvml.nvmlSystemGetDriverVersion())[:200],
    )
    busy = float(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu)
    heat = float(pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU))
    return GpuReading(card, utilization_percent=busy, temperature_c=heat)


def _processor_name() -> str:
    try:
        with Path("/proc/cpuinfo").open() as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()[:200]
    except OSError:
        pass
    return (platform.processor() or platform.machine())[:200]
