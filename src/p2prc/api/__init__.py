"""The control API of a running node: schema, server and client."""
