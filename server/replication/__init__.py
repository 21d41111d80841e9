"""Reading a volume of another cluster, and how that is said on the wire."""
