"""Gradients towards attention, as both engines take them."""
