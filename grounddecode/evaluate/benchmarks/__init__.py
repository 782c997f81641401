"""Benchmarks: their questions, drawn or from a folder, and what is measured on their answers."""
