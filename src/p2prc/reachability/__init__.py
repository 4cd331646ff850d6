"""What the machine's surroundings offer: its router, which may open a port, and its LAN."""
