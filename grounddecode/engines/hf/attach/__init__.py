"""How methods get onto a model and into a call, and leave nothing behind."""
