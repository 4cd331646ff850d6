"""What the rules mean, in sentences."""

from __future__ import annotations

from p2prc.api.schema import Setting
from p2prc.cli.render.policy_words import policy_words

PEER = "ab" * 32


def rules(**given: str) -> list[Setting]:
    usual = {
        "to": "members",
        "cpus": "2",
        "memory": "4294967296",
        "disk": "20G",
        "networks": "none",
    }
    found = {**usual, **{key.replace("__", "."): text for key, text in given.items()}}
    return [Setting(f"lend.{key}", text, "default") for key, text in found.items()]


def test_the_usual_rules() -> None:
    words = policy_words(rules(leases="256", lifetime="24h", traffic="10G", after_restart="keep"))
    assert words == [
        "lends to every member",
        "in all at most 2 cores, 4 GiB of memory and 20G of disk, in 256 leases",
        "one peer may have it all",
        "a lease lasts at most 24h",
        "network: none, for anybody",
        "images: host",
        "lends at any time, whether you are there or not",
        "containers go on when the node is killed",
    ]


def test_an_empty_list_of_quiet_hours_is_none() -> None:
    usual = [*rules(), Setting("lend.quiet_hours", [], "default")]
    assert "lends at any time, whether you are there or not" in policy_words(usual)


def test_rules_that_bound() -> None:
    words = policy_words(
        rules(
            to=PEER, deny="cd" * 32, networks="none,proxy,bridge", traffic="1G", lifetime="none",
            per_peer__cpus="1", quiet_hours="mon-fri 09:00-18:00", when_needed="end",
            only_while_away="load:0.5", after_restart="end",
        )
    )  # fmt: skip
    assert "lends to ababababab, but not cdcdcdcdcd" in words
    assert "one peer: at most 1 core" in words
    assert "a lease may last for ever" in words
    assert "network: none, or proxy or bridge for who asks, at most 1G each" in words
    assert "nothing is lent in quiet hours: mon-fri 09:00-18:00" in words
    assert "lends only while you are away: load:0.5" in words
    assert "running leases end then" in words
    assert "containers end when the node is killed" in words


def test_a_node_that_lends_nothing_and_one_that_tells_nothing() -> None:
    assert policy_words(rules(to="none")) == ["lends nothing to anybody"]
    assert policy_words([]) == []
