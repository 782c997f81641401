"""Scorers that equal the official programs, each rule by its name."""
