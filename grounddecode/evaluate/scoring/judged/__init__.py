"""Benchmarks whose answers another model has to judge: never exact, always with the name of the judge."""
