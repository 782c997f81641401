"""Methods that change or judge the choice of a token, from what its own step offers."""
