"""What a cluster sends to its workers; stands alone there, so it imports nothing of p2prc."""
