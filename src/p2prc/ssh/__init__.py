"""SSH that ends in the node: any image works, and no container needs a server of its own."""
