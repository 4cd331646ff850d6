"""How things change: pure machines, `handle(event, now) -> effects` with one `deadline` each.

No clock, no socket, no disk, no randomness of their own: the same code runs in a node and in the
simulation.
"""
