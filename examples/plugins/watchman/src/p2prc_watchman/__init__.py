"""A p2prc plugin: lets known friends in, tells when a job ends, keeps work off named nodes."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import p2prc

ENDED = ("succeeded", "failed", "cancelled")


class Watchman(p2prc.Hooks):
    """What a node's owner would do by hand."""

    def place(self, offers: Sequence[Any], job: str) -> Sequence[Any]:
        avoided = set(_rules().get("avoid", []))
        return [offer for offer in offers if offer.name not in avoided]

    def admit(self, joiner: p2prc.Joiner) -> bool | None:
        # An id is a key: it cannot be claimed. A name can.
        return True if joiner.id in _rules().get("friends", []) else None

    def job_event(self, event: p2prc.JobEvent) -> None:
        command = _rules().get("when_a_job_ends")
        if command and event.state in ENDED:
            said = (
                f"{event.name or event.job[:10]} {event.state}: {event.succeeded} of {event.total}"
            )
            # Not waited for: the node's event loop is ours only for a moment.
            subprocess.Popen([*command, said], stdin=subprocess.DEVNULL)


def _rules() -> dict[str, Any]:
    path = Path(os.environ.get("P2PRC_WATCHMAN", "~/.config/p2prc-watchman.json")).expanduser()
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
