"""Run workloads: the port, the embedded sandbox `process`, and a fake for tests."""
