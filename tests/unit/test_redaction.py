"""What leaves the machine in a bug report."""

from __future__ import annotations

from p2prc.cli.redaction import Redaction

REDACTION = Redaction(home="/home/ada/.p2prc", names=["ada", "ada-laptop", ""])


def test_addresses_tickets_names_and_the_home_are_taken_out() -> None:
    ticket, shown = "p2prc2" + "a" * 60, "shown2" + "b" * 60
    text = (
        "ada-laptop at 203.0.113.9:8088 and [2001:db8::1]:8088, "
        f"{ticket}, {shown}, /home/ada/.p2prc/log"
    )
    told = REDACTION.of(text)
    for secret in ("ada", "203.0.113.9", "2001:db8", ticket, shown, "/home"):
        assert secret not in told
    assert "node-1" in told
    assert ":8088" in told


def test_the_same_address_is_the_same_word() -> None:
    first = REDACTION.of("10.0.0.7 then 10.0.0.8 then 10.0.0.7").split(" then ")
    assert first[0] == first[2] != first[1]
    assert REDACTION.of("10.0.0.7") == first[0]


def test_ids_are_shortened_and_times_stay() -> None:
    told = REDACTION.of(f"{'ab' * 32} at 12:30:59, version 1.2.3, 127.0.0.1")
    assert told == "ababababab... at 12:30:59, version 1.2.3, 127.0.0.1"
