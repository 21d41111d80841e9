"""The seam below the core: an ordered key-value engine and a store of segments (D2, D3)."""
