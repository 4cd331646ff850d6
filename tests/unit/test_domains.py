"""Names of hosts: what is one, whom the gateway's owner grants them, who has them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2prc.errors import DomainTaken, InvalidInput, PolicyRefuses, SettingInvalid
from p2prc.model.identity import NodeId
from p2prc.protocol.domains import DomainBook, parse_domains, read_domain, read_host
from p2prc.protocol.gateways import GatewayBook, GatewayRules, Granted

OWN, ADA, GRACE = NodeId("0" * 64), NodeId("a" * 64), NodeId("b" * 64)
NAME, OTHER = "ab" * 5, "cd" * 5


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        ("App.Example.org", "app.example.org"),
        ("app.example.org.", "app.example.org"),
        ("*.example.org", "*.example.org"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("BÜCHER.example", "xn--bcher-kva.example"),
        ("straße.example", "xn--strae-oqa.example"),
        ("日本。example", "xn--wgv71a.example"),
        ("a-b.c1.example", "a-b.c1.example"),
    ],
)
def test_a_typed_domain_is_read_as_it_stands_in_requests(typed: str, read: str) -> None:
    assert read_domain(typed) == read


@pytest.mark.parametrize(
    "typed",
    [
        "",
        "*",
        "localhost",
        "192.0.2.1",
        "[::1]",
        "app..example.org",
        "-a.example",
        "a-.example",
        "a.*.example",
        "**.example",
        "*.*.example.org",
        "a_b.example",
        "a b.example",
        "app.example.org:80",
        "http://app.example.org",
        "a" * 64 + ".example",
        "a." * 127 + "example",
        "ü" * 300 + ".example",
        "☃\u200d.example\0",
    ],
)
def test_what_is_no_domain_is_refused(typed: str) -> None:
    with pytest.raises(InvalidInput):
        read_domain(typed)


@pytest.mark.parametrize(
    ("value", "host"),
    [
        ("app.example.org", "app.example.org"),
        ("APP.example.org:8443", "app.example.org"),
        ("app.example.org.:80", "app.example.org"),
        ("app.example.org:", "app.example.org"),
        ("app.example.org:65536", None),
        ("app.example.org:80:80", None),
        ("app.example.org:x", None),
        ("192.0.2.1", None),
        ("[2001:db8::1]:80", None),
        ("", None),
        (":80", None),
        ("a@app.example.org", None),
        ("app.example.org/x", None),
        ("app.example.org,other.example.org", None),
        (" app.example.org", None),
        ("*.example.org", None),
        ("b\xfccher.example", None),
    ],
)
def test_a_host_header_names_a_domain_or_nothing(value: str, host: str | None) -> None:
    assert read_host(value) == host


@given(st.text(max_size=300))
def test_what_is_read_is_read_again_the_same(text: str) -> None:
    host = read_host(text)
    if host is not None:
        assert read_domain(host) == host == read_host(host)
    try:
        domain = read_domain(text)
    except InvalidInput:
        return
    assert read_domain(domain) == domain


def test_grants_are_of_a_name_or_of_all_below_and_the_longest_decides() -> None:
    grants = parse_domains(f"app.example.org={ADA}, *.example.org={GRACE}, *.free.example=members")
    assert grants.allows("app.example.org", ADA)
    assert not grants.allows("app.example.org", GRACE)
    assert grants.allows("other.example.org", GRACE)
    assert grants.allows("*.example.org", GRACE)
    assert grants.allows("deep.app.example.org", GRACE)
    assert not grants.allows("example.org", GRACE)
    assert not grants.allows("notexample.org", GRACE)
    assert grants.allows("x.free.example", OWN)
    assert not grants.allows("x.other.example", OWN)
    assert not parse_domains("none").allows("app.example.org", ADA)


@pytest.mark.parametrize(
    "text",
    ["app.example.org", "app.example.org=ada", f"x={ADA}", f"a.b={ADA},A.b={GRACE}", "=members"],
)
def test_a_grant_that_says_too_little_is_refused(text: str) -> None:
    with pytest.raises(SettingInvalid):
        parse_domains(text)


def test_a_name_is_had_once_and_found_before_its_wildcard() -> None:
    book = DomainBook()
    book.grants = parse_domains("*.example.org=members")
    book.check("app.example.org", (ADA, NAME))
    book.hold("app.example.org", (ADA, NAME))
    book.check("app.example.org", (ADA, NAME))
    for other in ((GRACE, NAME), (ADA, OTHER)):
        with pytest.raises(DomainTaken):
            book.check("app.example.org", other)
    with pytest.raises(PolicyRefuses):
        book.check("app.example.com", (ADA, NAME))
    book.hold("*.example.org", (GRACE, NAME))
    assert book.find("app.example.org") == (ADA, NAME)
    assert book.find("x.example.org") == (GRACE, NAME)
    assert book.find("x.y.example.org") is None
    assert book.find("example.org") is None
    book.free("app.example.org", (GRACE, NAME))
    assert book.find("app.example.org") == (ADA, NAME)
    book.free("app.example.org", (ADA, NAME))
    assert book.find("app.example.org") == (GRACE, NAME)
    book.check("app.example.org", (GRACE, OTHER))


def test_a_domain_ends_with_its_grant_and_counts_among_its_owners_ports() -> None:
    rules = GatewayRules(domains=parse_domains(f"*.example.org={ADA}"), per_peer_mappings=1)
    book = GatewayBook(OWN)
    book.rules = rules
    book.check_domain(ADA, NAME, "app.example.org")
    granted = Granted(NAME, ADA, "tcp", 0, 0.0, 0.0, domain="app.example.org")
    book.take_up(granted)
    assert book.find("app.example.org") == granted
    assert book.overdue(1.0) == []
    book.check_domain(ADA, NAME, "app.example.org")
    with pytest.raises(Exception, match="which is the most"):
        book.check_domain(ADA, OTHER, "other.example.org")
    for changed in (
        GatewayRules(to=None),
        GatewayRules(domains=rules.domains, denied=frozenset({ADA})),
        GatewayRules(domains=parse_domains(f"app.example.org={GRACE}")),
    ):
        book.rules = changed
        assert book.overdue(1.0) == [granted]
        with pytest.raises(PolicyRefuses):
            book.check_domain(ADA, NAME, "app.example.org")
    book.forget(granted)
    assert book.find("app.example.org") is None


def test_a_name_that_must_be_proved_is_had_for_as_long_as_it_is() -> None:
    rules = GatewayRules(domains=parse_domains(f"*=proved,*.example.org={ADA}"))
    book = GatewayBook(OWN)
    book.rules = rules
    assert book.needs_proof("app.example.com")
    assert not book.needs_proof("app.example.org")
    with pytest.raises(PolicyRefuses) as refused:
        book.check_domain(GRACE, NAME, "*.example.com")
    assert "`_p2prc.example.com`" in refused.value.hint
    book.note_proof("app.example.com", GRACE, is_there=True)
    book.check_domain(GRACE, NAME, "app.example.com")
    with pytest.raises(PolicyRefuses):
        book.check_domain(ADA, NAME, "app.example.com")
    granted = Granted(NAME, GRACE, "tcp", 0, 0.0, 0.0, domain="app.example.com")
    book.take_up(granted)
    assert book.overdue(1.0) == []
    book.note_proof("app.example.com", GRACE, is_there=False)
    assert book.overdue(1.0) == [granted]
    # What was had before a restart stays until it is looked at again.
    later = GatewayBook(OWN)
    later.rules = rules
    later.take_up(granted)
    assert later.overdue(1.0) == []
