"""Where the pictures of a prompt stand in its tokens, and which pixels each token saw."""
