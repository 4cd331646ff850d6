"""Peers and streams: the port, iroh behind it, and a twin in memory."""
