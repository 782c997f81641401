"""Commands that ask a model, or look at one."""
