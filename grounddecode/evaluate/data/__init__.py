"""Tables that the scorers read."""
