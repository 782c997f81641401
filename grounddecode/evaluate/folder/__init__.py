"""The run folder: what its files hold, how they are read and written."""
