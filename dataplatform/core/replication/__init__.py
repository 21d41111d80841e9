"""Mirrors: one volume follows another, commit by commit (docs/decisions/0012)."""
