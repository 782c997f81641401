"""What a GPU must show: every method right in bfloat16, and what it costs at the size of real checkpoints."""
