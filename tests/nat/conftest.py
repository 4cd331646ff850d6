"""Labs, and the reason why there is none."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.nat.lab import Lab, open_lab, why_not


@pytest.fixture(scope="session")
def namespaces() -> None:
    """Skip where no lab can be built, and say why."""
    if reason := why_not():
        pytest.skip(reason)


@pytest.fixture(scope="module")
def lab(namespaces: None) -> Iterator[Lab]:
    """An internet for the tests of one module."""
    with open_lab() as opened:
        yield opened
