"""A bench on many machines: engines in Ray's actors, the run folder and the order of the batches in one driver."""
