"""Packages for a command: a name and versions, from the registry that the owner uses."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.system.nodes import NodeUnderTest, join_all, stop_all, up_all
from tests.unit.package_index import PackageIndex, serve_packages

HOSTILE = "import pathlib; print('sly'); pathlib.Path('{touched}').write_text('outside')\n"


class Packages:
    """Two nodes and their registry."""

    def __init__(self, nodes: list[NodeUnderTest], index: PackageIndex) -> None:
        self.ada, self.bob = nodes
        self.index = index


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Packages]:
    folder = tmp_path_factory.mktemp("packages")
    with serve_packages(folder / "index") as index:
        nodes = [
            NodeUnderTest(
                folder / name,
                name,
                variables={
                    "UV_DEFAULT_INDEX": index.url,
                    "UV_CACHE_DIR": str(folder / f"{name}-cache"),
                    "NO_PROXY": "127.0.0.1",
                },
            )
            for name in ("ada", "bob")
        ]
        try:
            up_all(nodes, "--cpus", "2")
            join_all(nodes)
            yield Packages(nodes, index)
        finally:
            stop_all(nodes)


def test_a_command_finds_the_packages_that_it_asked_for(packages: Packages) -> None:
    packages.index.add("greeting", "1.0", {"greeting.py": "WORD = 'old'"})
    packages.index.add("greeting", "2.0", {"greeting.py": "WORD = 'new'"})
    program = "import greeting; print(greeting.WORD)"
    for requirement, word in (("greeting<2", "old"), ("greeting", "new")):
        said = packages.ada.p2prc(
            "run", "bob", "--requirement", requirement, "--", "python", "-c", program
        )
        assert said.out == f"{word}\n"
    said = packages.ada.p2prc("run", "bob", "--", "python3", "-c", program, status=1)
    assert "greeting" in said.err


def test_what_a_wheel_does_it_does_in_the_sandbox_alone(packages: Packages) -> None:
    """Its module and its `.pth` file, which runs wherever an interpreter starts on it."""
    touched = packages.bob.home.parent / "touched"
    hostile = HOSTILE.format(touched=touched)
    packages.index.add("sly", "1.0", {"sly.py": hostile, "sly.pth": hostile})
    said = packages.ada.p2prc(
        "run", "bob", "--requirement", "sly", "--", "python", "-c", "import sly", status=1
    )
    assert said.out == "sly\n"
    assert list((packages.bob.home / "environments").glob("*/sly.pth"))
    assert not touched.exists()


def test_a_package_that_nobody_has_is_named(packages: Packages) -> None:
    words = ("--requirement", "no-such-package", "--over", "i=1", "--", "true")
    said = packages.ada.p2prc("--json", "map", *words, status=8)
    assert said.error["code"] == "environment-broken"
    assert "no-such-package" in said.error["message"]


@pytest.mark.parametrize(
    "requirement",
    [
        "six @ https://example.org/six-1.0-py3-none-any.whl",
        "six @ file:///tmp/six-1.0-py3-none-any.whl",
        "./six",
        "/tmp/six-1.0-py3-none-any.whl",
        "--index-url=https://example.org/simple",
        "-r requirements.txt",
        "git+https://example.org/six.git",
        "",
    ],
)
def test_a_requirement_that_is_more_than_a_name_and_versions_is_refused(
    packages: Packages, requirement: str
) -> None:
    words = (f"--requirement={requirement}",)
    said = packages.ada.p2prc("--json", "map", *words, "--over", "i=1", "--", "true", status=3)
    assert said.error["code"] == "requirement-invalid"
    assert said.error["hint"]
    said = packages.ada.p2prc("--json", "run", "any", *words, "--", "true", status=125)
    assert said.error["code"] == "requirement-invalid"
