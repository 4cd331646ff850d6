"""A live peer: drives the machines and performs their effects."""
