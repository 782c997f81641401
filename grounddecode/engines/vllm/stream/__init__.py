"""Second streams on a server: their forward pass, their cache, and how many there may be."""
