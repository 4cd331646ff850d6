"""An iroh relay for the members of one network, on a node's public TCP port."""
