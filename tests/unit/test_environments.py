"""Environments are built from names and hashes alone, and nobody runs them on the way."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2prc.errors import DiskFull, EnvironmentBroken, RequirementInvalid
from p2prc.model.environment import EnvironmentLock, LockedPackage
from p2prc.model.identity import LeaseId
from p2prc.model.resources import Limits
from p2prc.runtime.environments import EnvironmentStore, parse_requirements, resolve
from p2prc.runtime.installer import Registry
from p2prc.runtime.port import SandboxSpec
from p2prc.runtime.process.adapter import ProcessRuntime
from p2prc.runtime.process.assets import find_bubblewrap
from tests.unit.package_index import PackageIndex, serve_packages

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
MEBIBYTE = 1 << 20
QUOTA = 100 * MEBIBYTE


@pytest.fixture
def index(tmp_path: Path) -> Iterator[PackageIndex]:
    with serve_packages(tmp_path / "index") as served:
        yield served


@pytest.fixture
def registry(index: PackageIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return Registry(index.url, tmp_path / "cache")


def lock_of(*packages: tuple[str, str, str]) -> EnvironmentLock:
    locked = (LockedPackage(name, version, (sha256,)) for name, version, sha256 in packages)
    return EnvironmentLock(PYTHON, tuple(locked))


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("numpy", "numpy"),
        (" NumPy >= 2 , <3 ", "numpy<3,>=2"),
        ("Typing_Extensions==4.12.2", "typing-extensions==4.12.2"),
        ("dask[array, complete]~=2025.1", "dask[array,complete]~=2025.1"),
    ],
)
def test_a_name_with_extras_and_a_range_is_a_requirement(text: str, normal: str) -> None:
    assert parse_requirements([text]) == (normal,)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("https://example.org/evil.whl", "URL"),
        ("evil @ https://example.org/evil.whl", "URL"),
        ("evil @ file:///tmp/evil.whl", "URL"),
        ("git+https://example.org/evil", "URL"),
        ("./evil", "path"),
        ("/tmp/evil.whl", "path"),
        ("..\\evil", "path"),
        ("-r other.txt", "option"),
        ("--index-url=https://example.org", "option"),
        (" -e .", "option"),
        ("numpy --hash=sha256:00", "not a requirement"),
        ("numpy\n--index-url https://example.org", "line end"),
        ("numpy==1.0+local", "local"),
        ("numpy===whatever", "arbitrary"),
        ("numpy; sys_platform == 'linux'", "condition"),
        ("${HOME}", "not a requirement"),
        ("", "not a requirement"),
        ("x" * 1000, "longer"),
    ],
)
def test_everything_else_is_refused_with_a_reason(text: str, reason: str) -> None:
    with pytest.raises(RequirementInvalid, match=reason):
        parse_requirements([text])


@given(st.text(max_size=60))
def test_what_is_accepted_is_a_name_and_a_range_and_nothing_else(text: str) -> None:
    try:
        (accepted,) = parse_requirements([text])
    except RequirementInvalid:
        return
    assert re.fullmatch(r"[a-z0-9][a-z0-9-]*(\[[A-Za-z0-9._,-]+\])?[0-9A-Za-z.*!~<>=,]*", accepted)


def test_the_same_requirement_twice_is_one() -> None:
    assert parse_requirements(["b", "a", "B"]) == ("a", "b")


def test_too_many_requirements_are_refused() -> None:
    with pytest.raises(RequirementInvalid):
        parse_requirements([f"package-{number}" for number in range(1000)])


async def test_requirements_are_locked_with_what_they_need(
    index: PackageIndex, registry: Registry
) -> None:
    below = index.add("below", "1.5", {"below.py": ""})
    index.add("below", "2.0", {"below.py": ""})
    above = index.add("above", "1.0", {"above.py": ""}, needs=("below<2",))
    lock = await resolve(["above"], python=PYTHON, registry=registry)
    assert lock == lock_of(("above", "1.0", above), ("below", "1.5", below))


async def test_conditions_that_cannot_hold_are_not_locked(
    index: PackageIndex, registry: Registry
) -> None:
    needs = ("old; python_version < '3'", "mac; sys_platform == 'darwin'", "never; extra == 'x'")
    for name in ("old", "mac", "never"):
        index.add(name, "1.0", {})
    index.add("above", "1.0", {}, needs=needs)
    lock = await resolve(["above"], python=PYTHON, registry=registry)
    assert [package.name for package in lock.packages] == ["above", "mac"]
    assert lock.packages[1].marker == "sys_platform == 'darwin'"


async def test_a_package_that_does_not_exist_is_named(registry: Registry) -> None:
    with pytest.raises(EnvironmentBroken, match="no-such-package"):
        await resolve(["no-such-package"], python=PYTHON, registry=registry)


async def test_a_package_without_wheels_is_not_built(
    index: PackageIndex, registry: Registry
) -> None:
    index.add_source("source", "1.0")
    with pytest.raises(EnvironmentBroken, match="source"):
        await resolve(["source"], python=PYTHON, registry=registry)


async def test_an_environment_is_built_once_and_found_again(
    index: PackageIndex, registry: Registry, tmp_path: Path
) -> None:
    lock = lock_of(("tool", "1.0", index.add("tool", "1.0", {"tool.py": "answer = 42"})))
    store = EnvironmentStore(tmp_path / "store", quota_bytes=QUOTA, registry=registry)
    lines: list[str] = []
    first, second = await asyncio.gather(
        store.ensure(lock, user="a", progress=lines.append),
        store.ensure(lock, user="b", progress=lines.append),
    )
    assert first == second == tmp_path / "store" / lock.digest
    assert (first / "tool.py").read_text() == "answer = 42"
    assert sum("Installed" in line for line in lines) == 1
    (tmp_path / "index" / "tool-1.0-py3-none-any.whl").unlink()
    again = EnvironmentStore(tmp_path / "store", quota_bytes=QUOTA, registry=registry)
    assert await again.ensure(lock, user="c") == first
    assert {path.name for path in (tmp_path / "store").iterdir() if path.is_dir()} == {lock.digest}


async def test_a_wheel_that_is_not_the_locked_one_is_refused(
    index: PackageIndex, registry: Registry, tmp_path: Path
) -> None:
    index.add("tool", "1.0", {"tool.py": ""})
    store = EnvironmentStore(tmp_path / "store", quota_bytes=QUOTA, registry=registry)
    with pytest.raises(EnvironmentBroken, match=r"(?i)hash"):
        await store.ensure(lock_of(("tool", "1.0", "0" * 64)), user="a")
    assert list((tmp_path / "store").iterdir()) == []


@pytest.mark.parametrize(
    "marker",
    [
        "sys_platform == 'linux' --index-url http://127.0.0.1:1",
        "sys_platform == 'linux'\n--index-url http://127.0.0.1:1",
        "sys_platform == '${HOME}'",
        "sys_platform == 'linux' # comment",
        "no_such_variable == '1'",
        "nonsense",
    ],
)
async def test_a_lock_cannot_carry_options_in_a_condition(
    index: PackageIndex, registry: Registry, tmp_path: Path, marker: str
) -> None:
    package = LockedPackage("tool", "1.0", (index.add("tool", "1.0", {}),), marker)
    store = EnvironmentStore(tmp_path / "store", quota_bytes=QUOTA, registry=registry)
    with pytest.raises(RequirementInvalid):
        await store.ensure(EnvironmentLock(PYTHON, (package,)), user="a")


@pytest.mark.parametrize("version", ["1.0+local", "-r", "nonsense"])
async def test_a_lock_cannot_carry_odd_versions(
    registry: Registry, tmp_path: Path, version: str
) -> None:
    store = EnvironmentStore(tmp_path / "store", quota_bytes=QUOTA, registry=registry)
    with pytest.raises(RequirementInvalid):
        await store.ensure(lock_of(("tool", version, "0" * 64)), user="a")


async def test_a_lock_for_another_python_is_refused(registry: Registry, tmp_path: Path) -> None:
    store = EnvironmentStore(tmp_path / "store", quota_bytes=QUOTA, registry=registry)
    with pytest.raises(EnvironmentBroken, match=r"3\.99"):
        await store.ensure(EnvironmentLock("3.99", ()), user="a")


async def test_what_was_not_used_for_longest_makes_room(
    index: PackageIndex, registry: Registry, tmp_path: Path
) -> None:
    locks = [
        lock_of((name, "1.0", index.add(name, "1.0", {name: os.urandom(2 * MEBIBYTE)})))
        for name in ("one", "two", "three")
    ]
    store = EnvironmentStore(tmp_path / "store", quota_bytes=5 * MEBIBYTE, registry=registry)
    paths = []
    for lock in locks[:2]:
        paths.append(await store.ensure(lock, user="a"))
        store.release(lock, user="a")
    os.utime(paths[0], (2e9, 2e9))
    paths.append(await store.ensure(locks[2], user="a"))
    assert [path.exists() for path in paths] == [True, False, True]


async def test_what_is_in_use_is_never_evicted(
    index: PackageIndex, registry: Registry, tmp_path: Path
) -> None:
    locks = [
        lock_of((name, "1.0", index.add(name, "1.0", {name: os.urandom(2 * MEBIBYTE)})))
        for name in ("one", "two")
    ]
    store = EnvironmentStore(tmp_path / "store", quota_bytes=3 * MEBIBYTE, registry=registry)
    kept = await store.ensure(locks[0], user="a")
    await store.ensure(locks[0], user="b")
    store.release(locks[0], user="a")
    with pytest.raises(DiskFull):
        await store.ensure(locks[1], user="a")
    assert kept.exists()
    store.release(locks[0], user="b")
    await store.ensure(locks[1], user="a")
    assert not kept.exists()


async def test_a_cancelled_build_leaves_nothing_and_may_be_tried_again(
    index: PackageIndex, registry: Registry, tmp_path: Path
) -> None:
    lock = lock_of(("tool", "1.0", index.add("tool", "1.0", {"tool.py": ""})))
    store = EnvironmentStore(tmp_path / "store", quota_bytes=QUOTA, registry=registry)
    started = asyncio.Event()
    build = asyncio.create_task(store.ensure(lock, user="a", progress=lambda _: started.set()))
    async with asyncio.timeout(20):
        await started.wait()
    build.cancel()
    with pytest.raises(asyncio.CancelledError):
        await build
    assert list((tmp_path / "store").iterdir()) == []
    assert (await store.ensure(lock, user="a")).is_dir()


async def test_a_build_has_a_time_limit(
    index: PackageIndex, registry: Registry, tmp_path: Path
) -> None:
    lock = lock_of(("tool", "1.0", index.add("tool", "1.0", {})))
    store = EnvironmentStore(
        tmp_path / "store", quota_bytes=QUOTA, registry=registry, build_limit_s=0.001
    )
    with pytest.raises(EnvironmentBroken, match="within"):
        await store.ensure(lock, user="a")


async def test_what_a_cut_off_build_left_is_deleted(
    index: PackageIndex, registry: Registry, tmp_path: Path
) -> None:
    (tmp_path / "store" / ".building-old" / "inner").mkdir(parents=True)
    (tmp_path / "store" / ".building-old.txt").touch()
    lock = lock_of(("tool", "1.0", index.add("tool", "1.0", {})))
    store = EnvironmentStore(tmp_path / "store", quota_bytes=QUOTA, registry=registry)
    await store.ensure(lock, user="a")
    assert not list((tmp_path / "store").glob(".building-*"))


async def test_a_wheel_with_a_pth_file_runs_nowhere_but_in_the_sandbox(
    index: PackageIndex, registry: Registry, tmp_path: Path
) -> None:
    if not find_bubblewrap():
        pytest.skip("bubblewrap is not installed")
    places = (str(tmp_path / "escaped"), "/work/ran")
    line = f"import os; [os.mkdir(p) for p in {places!r} if os.path.isdir(os.path.dirname(p))]\n"
    sha256 = index.add("evil", "1.0", {"evil.pth": line, "evil.py": ""})
    lock = await resolve(["evil"], python=PYTHON, registry=registry)
    assert lock == lock_of(("evil", "1.0", sha256))
    store = EnvironmentStore(tmp_path / "store", quota_bytes=QUOTA, registry=registry)
    environment = await store.ensure(lock, user="a")
    assert (environment / "evil.pth").read_text() == line

    runtime = ProcessRuntime(tmp_path / "home")
    spec = SandboxSpec(LeaseId("1" * 20), tmp_path / "lease", Limits(), "userns", environment)
    sandbox = await runtime.create(spec)
    for program in ("import evil", "import site; site.addsitedir('/environment')"):
        running = await sandbox.execute(["python", "-c", program], variables={})
        async with asyncio.timeout(20):
            assert (await running.wait()).status == 0
    # The second program shows that the file does run when somebody lets it.
    assert (tmp_path / "lease" / "work" / "ran").is_dir()
    assert not (tmp_path / "escaped").exists()
    await runtime.close()


def test_a_lock_that_peers_send_is_decoded_strictly() -> None:
    lock = lock_of(("tool", "1.0", "0" * 64))
    fields = msgspec.to_builtins(lock)
    fields["packages"][0]["name"] = "../evil"
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(fields, EnvironmentLock)
