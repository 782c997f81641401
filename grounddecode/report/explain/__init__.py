"""One answer explained word by word: what it looked at, what it rests on, and what a method changed."""
