"""Images between real nodes: listed, sent where it is allowed, run, and cards refused."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.runtime_bench import ENGINE_WANTED
from tests.contract.test_images import archive, image
from tests.system.nodes import NodeUnderTest, join_all, stop_all, up_all


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[NodeUnderTest]]:
    if os.environ.get(ENGINE_WANTED) == "0" or not Path("/var/run/docker.sock").is_socket():
        pytest.skip("no container engine answers here")
    folder = tmp_path_factory.mktemp("images")
    wanted = {"P2PRC_RUNTIME": "auto"}
    nodes = [NodeUnderTest(folder / name, name, variables=wanted) for name in ("owner", "user")]
    try:
        up_all(nodes)
        join_all(nodes)
        yield nodes
    finally:
        stop_all(nodes)


def test_what_is_offered_is_seen_from_afar(pair: list[NodeUnderTest]) -> None:
    _, user = pair
    [host] = user.json("images", "owner")
    assert (host["name"], host["origin"]) == ("host", "machine")


def test_an_image_is_sent_only_where_the_owner_allows_it(
    pair: list[NodeUnderTest], tmp_path: Path
) -> None:
    owner, user = pair
    path = tmp_path / "image.tar"
    path.write_bytes(archive(image(archive({"hello": os.urandom(20)}))))
    refused = user.p2prc("images", "owner", "--send", str(path), status=None)
    assert "takes no images from you" in refused.err
    owner.p2prc("policy", "set", "lend.images_from", user.id)
    sent = user.json("images", "owner", "--send", str(path))
    assert sent["name"].startswith("p2prc/sent:")
    words = ["run", "owner", "--runtime", "docker", "--image", sent["name"], "--", "/hello"]
    ended = user.p2prc(*words, status=None)
    assert "does not exist there or cannot be run" in ended.err


def test_a_card_that_is_not_there_is_refused_with_the_reason(pair: list[NodeUnderTest]) -> None:
    _, user = pair
    if user.json("specs", "owner")["gpus"]:
        pytest.skip("there is a card here")
    refused = user.p2prc("run", "owner", "--gpus", "1", "--", "true", status=None)
    assert "no graphics card" in refused.err
