"""Move trees of files between disk, blob store and peers."""
