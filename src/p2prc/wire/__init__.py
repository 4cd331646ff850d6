"""Bytes to values and back: framing, strict decoding, signatures and their limits.

Knows no message by name. Everything here is pure and refuses with `WireError`.
"""
