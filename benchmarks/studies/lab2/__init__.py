"""Studies of the second lab."""
