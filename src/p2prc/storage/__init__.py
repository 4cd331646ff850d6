"""What outlives the process: the home folder, keys, state in SQLite, blobs on disk."""
