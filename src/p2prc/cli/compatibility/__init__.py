"""P2PRC's own flags, so that its documents and scripts go on working: each becomes a command."""
