"""How fast leases are that somebody works in: made, used, killed, and what watching them costs."""
