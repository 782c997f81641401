"""Methods that change which keys a token attends to."""
