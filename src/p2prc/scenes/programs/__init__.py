"""Programs that run in a sandbox and render; stand-alone, as a user's own would be."""
