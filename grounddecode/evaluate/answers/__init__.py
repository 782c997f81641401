"""Files of answers that were made elsewhere."""
