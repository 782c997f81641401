"""Words and sentences as the official programs cut, tag and reduce them."""
