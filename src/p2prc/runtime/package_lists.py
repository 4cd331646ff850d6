"""Lists of packages: what somebody asks for, what uv answers, and what uv is told to install.

Read strictly: a line that is not understood is not trusted. Loaded when the first list is read,
for most nodes never see one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec
from packaging.markers import InvalidMarker, Marker
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from p2prc.errors import EnvironmentBroken, RequirementInvalid
from p2prc.model.environment import EnvironmentLock, LockedPackage

_REQUIREMENTS_LIMIT = 200
_REQUIREMENT_LIMIT = 300
_MARKER = re.compile(r"[A-Za-z0-9_.<>=!~'\"() ]*")
"""Neither options nor line ends nor variables can be written with these."""
_PINNED = re.compile(r"(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^\s;]+)(?:\s*;\s*(?P<marker>.+))?")
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")
_PLATFORMS = (
    ("linux", "Linux", "posix"),
    ("darwin", "Darwin", "posix"),
    ("win32", "Windows", "nt"),
)
_MACHINES = ("x86_64", "aarch64", "arm64", "AMD64")


def parse(texts: Sequence[str]) -> tuple[str, ...]:
    """Return requirements in their normal form, sorted; raises RequirementInvalid with a reason."""
    if len(texts) > _REQUIREMENTS_LIMIT:
        raise RequirementInvalid(f"more than {_REQUIREMENTS_LIMIT} requirements")
    return tuple(sorted({_requirement(text) for text in texts}))


def _requirement(text: str) -> str:
    shown = repr(text[:100])
    if len(text) > _REQUIREMENT_LIMIT:
        raise RequirementInvalid(f"a requirement longer than {_REQUIREMENT_LIMIT}: {shown}")
    if text.lstrip().startswith("-"):
        raise RequirementInvalid(f"an option is not a requirement: {shown}")
    if not text.isprintable():
        raise RequirementInvalid(f"a requirement with a line end or control character: {shown}")
    try:
        parsed = Requirement(text)
    except InvalidRequirement as error:
        if "/" in text or "\\" in text or text.strip().startswith("."):
            raise RequirementInvalid(f"a path or URL is not a requirement: {shown}") from error
        raise RequirementInvalid(f"not a requirement: {shown}") from error
    if parsed.url is not None:
        raise RequirementInvalid(f"a requirement may not name a URL: {shown}")
    if parsed.marker is not None:
        raise RequirementInvalid(f"a requirement may not have a condition: {shown}")
    for specifier in parsed.specifier:
        if specifier.operator == "===" or "+" in specifier.version:
            raise RequirementInvalid(f"a local or arbitrary version cannot be had: {shown}")
    extras = f"[{','.join(sorted(parsed.extras))}]" if parsed.extras else ""
    return f"{canonicalize_name(parsed.name)}{extras}{parsed.specifier}"


def read_lock(text: str, python: str) -> EnvironmentLock:
    """Return the lock in uv's answer; raises EnvironmentBroken where it is not understood."""
    packages: list[LockedPackage] = []
    for entry in text.replace("\\\n", " ").splitlines():
        if not entry.strip():
            continue
        pinned, *hashes = re.split(r"\s+(?=--hash=)", entry.strip())
        match = _PINNED.fullmatch(pinned.strip())
        sha256 = [found[1] for part in hashes if (found := _HASH.fullmatch(part.strip()))]
        if match is None or len(sha256) != len(hashes) or not sha256:
            raise EnvironmentBroken(f"uv's answer is not understood: {entry[:200]!r}")
        marker = (match["marker"] or "").strip()
        if _applies(marker, python):
            name = canonicalize_name(match["name"])
            packages.append(
                LockedPackage(name, match["version"], tuple(sorted(set(sha256))), marker)
            )
    packages.sort(key=lambda package: (package.name, package.version))
    lock = EnvironmentLock(python, tuple(packages))
    try:
        # Values made here are held to what is demanded of a peer's.
        return msgspec.convert(msgspec.to_builtins(lock), EnvironmentLock)
    except msgspec.ValidationError as error:
        raise EnvironmentBroken(f"the lock is too large or odd: {error}") from error


def _applies(marker: str, python: str) -> bool:
    """Say whether the condition can hold on any platform with this Python."""
    if not marker:
        return True
    condition = _marker(marker)
    for system, name, kind in _PLATFORMS:
        for machine in _MACHINES:
            platform = {"sys_platform": system, "platform_system": name, "os_name": kind}
            version = {"python_version": python, "python_full_version": f"{python}.0"}
            facts = {**platform, **version, "platform_machine": machine, "extra": ""}
            if condition.evaluate(facts):
                return True
    return False


def listing(lock: EnvironmentLock) -> str:
    """Write the lock in uv's words; raises RequirementInvalid when a part is not what it seems."""
    return "".join(_listed(package) for package in lock.packages)


def _listed(package: LockedPackage) -> str:
    try:
        version = Version(package.version)
    except InvalidVersion as error:
        raise RequirementInvalid(f"not a version: {package.version[:60]!r}") from error
    if version.local:
        raise RequirementInvalid(f"a local version cannot be had: {package.version[:60]!r}")
    condition = f" ; {_marker(package.marker)}" if package.marker else ""
    hashes = "".join(f" \\\n    --hash=sha256:{sha256}" for sha256 in package.sha256)
    return f"{package.name}=={version}{condition}{hashes}\n"


def _marker(text: str) -> Marker:
    shown = repr(text[:100])
    if not _MARKER.fullmatch(text):
        raise RequirementInvalid(f"a condition with a character that has no place there: {shown}")
    try:
        return Marker(text)
    except InvalidMarker as error:
        raise RequirementInvalid(f"not a condition: {shown}") from error
