"""What is said of the lab's pictures: captions, questions, the words and the training corpus."""
