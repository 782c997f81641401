"""Where drawn shapes stand in a picture when they may stand at any pixel."""

import numpy as np

LEAST = 0.7  # of a shape's own pixels stay visible, whatever is put in front of it


class Ground:
    """The shapes put so far: whose pixel each is, and how much of each is left.

    Args:
        side: of the picture, in pixels.
    """

    def __init__(self, side: int) -> None:
        self.owner = np.full((side, side), -1, dtype=np.int64)
        self.full: list[int] = []
        self.left = np.zeros(0, dtype=np.int64)

    def put(self, shape: np.ndarray, x: int, y: int) -> bool:
        """Put a shape (size, size) bool in front of the others, its corner at `x`, `y`.

        Returns False, and changes nothing, where less than `LEAST` of another's pixels would stay visible.
        """
        window = self.owner[y : y + shape.shape[0], x : x + shape.shape[1]]
        hidden = window[shape]
        left = self.left - np.bincount(hidden[hidden >= 0], minlength=len(self.left))
        if (left < LEAST * np.array(self.full)).any():
            return False
        window[shape] = len(self.full)
        self.full.append(int(shape.sum()))
        self.left = np.append(left, self.full[-1])
        return True
