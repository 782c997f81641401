"""The stages of training: the vision tower, the projector, the language model."""
