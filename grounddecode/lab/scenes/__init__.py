"""What the lab's pictures show, and how they are drawn."""
