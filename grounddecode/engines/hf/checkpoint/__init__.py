"""From a model's folder or name to a model, its processor and what both are made for."""
