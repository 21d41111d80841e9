"""How things are named and written in an engine: THE key table, and the stored records."""
