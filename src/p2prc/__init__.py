"""Pool the computers that people already own into one network for computation."""

__version__ = "0.1.0"
