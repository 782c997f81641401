"""Methods that contrast the scores of a step with those of a second stream that sees less, or other pictures."""
