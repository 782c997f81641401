"""Methods that change or read what layers hand on: hidden states and early exits."""
