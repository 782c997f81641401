"""What the benchmarks need on disk, how it is checked and had, and the tables that scorers read."""
