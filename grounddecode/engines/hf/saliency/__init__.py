"""Gradients towards attention, and what is made of them."""
