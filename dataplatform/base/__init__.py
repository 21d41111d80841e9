"""What every floor may use: errors, limits, clock, identifiers. Standard library only."""
