"""When certificates are ordered; and that of a domain, with an authority of the test."""

from __future__ import annotations

from collections.abc import MutableMapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2prc.node.domain_renewal import AcmeRules, DomainRenewal
from p2prc.protocol.renewals import (
    FIRST_WAIT_S,
    LONGEST_WAIT_S,
    ORDERS_LIMIT,
    ORDERS_OVER_S,
    RenewalBook,
)
from p2prc.web.certificates import Certificates
from p2prc.web.orders import CHALLENGES, Obtained, Order, OrderFailed
from tests.unit.certificate_fake import written

APP, OTHER = "app.example.org", "other.example.org"


def test_what_has_none_is_ordered_first_and_the_rest_in_its_last_third() -> None:
    book = RenewalBook()
    lives = {APP: (0.0, 90.0)}
    assert book.due([APP, OTHER], lives, 80.0) == OTHER
    assert book.due([APP], lives, 59.0) is None
    assert book.due([APP], lives, 60.0) == APP
    assert book.due([], lives, 60.0) is None


def test_a_failure_is_told_and_waits_ever_longer() -> None:
    book, now, waits = RenewalBook(), 0.0, []
    for _ in range(8):
        assert book.due([APP], {}, now) == APP
        book.failed(APP, "no such name", now)
        assert book.trouble(APP) == "no such name"
        began = now
        while book.due([APP], {}, now) is None:
            now += 60.0
        waits.append(now - began)
    assert waits[0] == FIRST_WAIT_S
    assert waits == sorted(waits)
    assert waits[-1] == LONGEST_WAIT_S
    book.succeeded(APP)
    assert book.troubles() == {}
    book.failed(APP, "again", now)
    assert book.due([OTHER], {}, now) == OTHER
    # Who lets go of the domain leaves nothing behind.
    assert book.troubles() == {}


@given(st.lists(st.floats(0.0, 5000.0), max_size=200))
def test_an_authority_is_asked_so_often_and_no_more(steps: list[float]) -> None:
    book, now, ordered = RenewalBook(), 0.0, []
    for step in steps:
        now += step
        if book.due([APP], {}, now) is not None:
            book.ordered(now)
            ordered.append(now)
        assert sum(at > now - ORDERS_OVER_S for at in ordered) <= ORDERS_LIMIT


class _Authority:
    """Gives what it is asked for, for so many days; or says why not."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.days = 60.0
        self.why = ""
        self.asked: list[str] = []

    def __call__(self, order: Order, answers: MutableMapping[str, bytes]) -> Obtained:
        self.asked.append(order.domain)
        assert order.directory == "https://ca.example/directory"
        answers[CHALLENGES + "token"] = b"token.print"
        if self.why:
            raise OrderFailed(self.why)
        chain = written(self._folder, order.domain, days=self.days)
        return Obtained(chain.read_bytes(), chain.with_suffix(".key").read_bytes())


async def test_a_domain_gets_its_certificate_and_a_new_one_in_time(tmp_path: Path) -> None:
    authority, certificates = _Authority(tmp_path), Certificates()
    renewal = DomainRenewal(certificates, tmp_path / "kept", obtain=authority)
    assert not await renewal.look([APP])
    renewal.rules = AcmeRules("https://ca.example/directory")
    authority.why = "no such name"
    assert not await renewal.look(["*.example.org", APP])
    assert renewal.trouble(APP) == "no certificate: no such name"
    assert APP in renewal.troubles()[0]
    assert not await renewal.look([APP])
    assert authority.asked == [APP]
    assert renewal.answer(CHALLENGES + "token") == b"token.print"
    assert renewal.answer("/other") is None

    # One that will be over soon, beside it: of 93 days it has 3.
    authority.why, authority.days = "", 3.0
    assert await renewal.look([OTHER])
    certificates.look((tmp_path / "kept",))
    found = certificates.find(OTHER)
    assert found is not None
    assert (found.path.parent / "privkey.pem").stat().st_mode & 0o777 == 0o600
    authority.days = 60.0
    assert await renewal.look([OTHER])
    certificates.look((tmp_path / "kept",))
    renewed = certificates.find(OTHER)
    assert renewed is not None
    assert renewed.ends_at > found.ends_at

    # The owner's own files are the owner's to renew.
    own = tmp_path / "own"
    own.mkdir()
    written(own, "own.example.org", days=1)
    certificates.look((own,))
    assert not await renewal.look(["own.example.org"])
    assert authority.asked == [APP, OTHER, OTHER]


async def test_a_crash_of_an_order_is_told(tmp_path: Path) -> None:
    def crash(order: Order, answers: MutableMapping[str, bytes]) -> Obtained:
        raise RuntimeError("boom")

    renewal = DomainRenewal(Certificates(), tmp_path, obtain=crash)
    renewal.rules = AcmeRules("https://ca.example/directory")
    assert not await renewal.look([APP])
    assert "boom" in renewal.trouble(APP)


async def test_without_the_library_it_is_said_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "p2prc.web.acme", None)
    renewal = DomainRenewal(Certificates(), tmp_path)
    renewal.rules = AcmeRules("https://ca.example/directory")
    assert not await renewal.look([APP])
    assert "pip install p2prc[acme]" in renewal.trouble(APP)
