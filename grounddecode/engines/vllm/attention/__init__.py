"""Attention on a server: which rows of a step are edited, where their keys lie, and the layers that edit them."""
