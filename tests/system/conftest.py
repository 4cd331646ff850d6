"""Networks of real nodes, ended with the test that asked for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.system.nodes import NodeUnderTest, join_all, stop_all, up_all

MakeNodes = Callable[..., list[NodeUnderTest]]


@pytest.fixture
def make_nodes(tmp_path: Path) -> Iterator[MakeNodes]:
    """Return a function that makes nodes: `make_nodes(3)` is a network of three."""
    made: list[NodeUnderTest] = []

    def make(count: int, *options: str, joined: bool = True) -> list[NodeUnderTest]:
        names = [f"node{len(made) + number}" for number in range(count)]
        nodes = [NodeUnderTest(tmp_path / name, name) for name in names]
        made.extend(nodes)
        up_all(nodes, *options)
        if joined:
            join_all(nodes)
        return nodes

    yield make
    stop_all(made)


@pytest.fixture(scope="module")
def three_nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[NodeUnderTest]]:
    """A network of three for tests that leave it as it was."""
    folder = tmp_path_factory.mktemp("network")
    nodes = [NodeUnderTest(folder / name, name) for name in ("ada", "grace", "linus")]
    try:
        up_all(nodes, "--cpus", "2")
        join_all(nodes)
        yield nodes
    finally:
        stop_all(nodes)
