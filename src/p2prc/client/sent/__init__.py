"""What travels to a provider and runs there, in the sandbox: it imports nothing of p2prc."""
