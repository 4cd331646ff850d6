"""A virtual clock and a lossy network that run the shipped protocol code, with seeds."""
