"""Controls made from the answers themselves: what a method gains over plainly saying less."""

from __future__ import annotations

from collections.abc import Sequence


def matched_lengths(lengths: Sequence[int], target: int) -> list[int]:
    """Lengths cut from above so that they add up to `target` words: the longest are cut, to one common length.

    The common length is one word longer for some captions, spread evenly, where it does not come out even. Nothing is
    cut where the lengths add up to no more than the target.

    Args:
        lengths: words of each caption.
        target: words wanted of all together, 0 or more.
    """
    if target >= sum(lengths):
        return list(lengths)
    common = _common_length(lengths, target)
    cut = [min(length, common) for length in lengths]
    longer = [at for at, length in enumerate(lengths) if length > common]
    missing = target - sum(cut)
    for step in range(missing):
        cut[longer[step * len(longer) // missing]] += 1
    return cut


def cut_to_words(caption: str, words: int) -> str:
    """The first `words` words of a caption, words being what blanks separate; all of it when it is no longer."""
    pieces = caption.split()
    return caption if len(pieces) <= words else " ".join(pieces[:words])


def length_matched(captions: Sequence[str], others: Sequence[str]) -> list[str]:
    """`captions` cut so that they have as many words in all as `others` (the same number of captions)."""
    lengths = matched_lengths([len(caption.split()) for caption in captions], sum(len(c.split()) for c in others))
    return [cut_to_words(caption, length) for caption, length in zip(captions, lengths, strict=True)]


def _common_length(lengths: Sequence[int], target: int) -> int:
    """The largest length to which all can be cut without their sum exceeding the target."""
    low, high = 0, max(lengths, default=0)
    while low < high:
        middle = (low + high + 1) // 2
        if sum(min(length, middle) for length in lengths) <= target:
            low = middle
        else:
            high = middle - 1
    return low
