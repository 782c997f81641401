"""The second stream: other inputs, run as further rows of one batch and one cache."""
