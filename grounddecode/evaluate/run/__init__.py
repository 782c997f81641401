"""The bench: a recipe in, a run folder out."""
