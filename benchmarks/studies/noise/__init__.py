"""How far the training of the lab flatters a contrast with noise."""
