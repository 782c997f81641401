"""Engines: what runs the model and applies the methods."""
