"""Which training makes sinks emerge in the second lab: many variants at once, gates A, B and C, in one call.

`python -m benchmarks.studies.lab2.sweep --out DIR --seconds 235` on one GPU with 16 cores; `--toy` runs everything at
toy size on a CPU. One line a variant on stdout, all numbers in `DIR/sweep.json`, the best weights beside it.
"""
