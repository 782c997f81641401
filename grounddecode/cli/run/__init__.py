"""Commands about runs of the bench, their scores and the data they read."""
