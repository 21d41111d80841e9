"""Measurements: each kind of work against the disk, in one run."""
