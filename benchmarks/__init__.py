"""Measurements: ratios between contenders of one run."""
