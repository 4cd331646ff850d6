"""Jobs of this node: each ledger's coordinator, driven; facts on disk before anything follows them.

A job's runner is rebuilt from its ledger after a crash and carries on: it asks the nodes that had
its attempts what became of them.
"""

from __future__ import annotations

import logging

log = logging.getLogger(__name__)
