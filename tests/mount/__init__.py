"""Proofs on a real mount: walks beside a local directory, real programs, real faults."""
