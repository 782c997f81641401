"""What a server does before a request reaches a worker and behind its answer: beam search, and who made it."""
