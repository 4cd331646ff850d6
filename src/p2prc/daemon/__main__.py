"""`python -m p2prc.daemon`: the node's process. People start it by `p2prc up`."""

from __future__ import annotations

import sys

from p2prc.daemon.main import main

if __name__ == "__main__":
    sys.exit(main())
