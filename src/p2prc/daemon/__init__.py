"""The process: the only place that constructs adapters."""
