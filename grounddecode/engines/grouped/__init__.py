"""Edits that scale groups of keys: attention as partial sums over the groups, merged by factors of the masses."""
