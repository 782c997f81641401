"""Evaluation: scorers that equal the official ones, the runner, statistics and controls."""
