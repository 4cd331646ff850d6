"""Sandboxes in containers, by any engine that speaks Docker's API."""
