"""Part-of-speech tags of NLTK's English perceptron, from its published weights and without NLTK itself.

Why not NLTK: the numbers of published tables are of its older weights, a pickle, which NLTK since 3.9 does not read any
more and which is read here without running anything. On the 500 LLaVA-1.5 captions of OPERA (48,659 tokens, one core)
NLTK 3.10 with the same weights gives the same tag for every token in 1.19 s, this module in 0.25 s, and in 0.03 s where
it is asked for the tags that CHAIR looks at alone. `word_tokenize` besides wants a download of its own (`punkt_tab`);
`grounddecode.evaluate.language.tokens` needs none, and gives CHAIR the same objects.
"""

from __future__ import annotations

import io
import json
import os
import sys
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from grounddecode.evaluate.data import safe_pickle

_JSON, _PICKLE = "averaged_perceptron_tagger_eng", "averaged_perceptron_tagger"


class Tagger:
    """Greedy averaged perceptron (M. Honnibal, 2013) over the features and tie rules of `nltk.tag.PerceptronTagger`.

    The sums are taken in NLTK's order, so that the same weights give the same tags to the last bit.
    """

    def __init__(
        self, weights: Mapping[str, Mapping[str, float]], known: Mapping[str, str], classes: Sequence[str]
    ) -> None:
        self._weights = weights
        self._known = known
        self._classes = sorted(
            classes, reverse=True
        )  # among equals the last in the alphabet wins: it has to come first
        self._column = {name: column for column, name in enumerate(self._classes)}
        self._rows: dict[str, NDArray[np.float64] | None] = {}

    def tags(self, tokens: Sequence[str]) -> list[str]:
        """The tag of every token."""
        text = Tagged(self, tokens)
        return [text.tag(place) for place in range(len(tokens))]

    def known_tag(self, token: str) -> str | None:
        """The tag of a word that has only one."""
        return self._known.get(token)

    def predict(self, features: Sequence[str]) -> str:
        """The best class of the sum of the features' weights."""
        scores = np.zeros(len(self._classes))
        for feature in features:
            row = self._row(feature)
            if row is not None:
                scores += row
        return self._classes[int(scores.argmax())]

    def _row(self, feature: str) -> NDArray[np.float64] | None:
        try:
            return self._rows[feature]
        except KeyError:
            row = None
            if feature in self._weights:
                row = np.zeros(len(self._classes))
                for name, weight in self._weights[feature].items():
                    row[self._column[name]] = weight
            self._rows[feature] = row
            return row


class Tagged:
    """The tags of one text, found when asked for: a tag needs the two before it, back to words with only one tag."""

    def __init__(self, tagger: Tagger, tokens: Sequence[str]) -> None:
        self._tagger = tagger
        self._tokens = tokens
        self._tags = [tagger.known_tag(token) for token in tokens]
        self._normal = ["-START-", "-START2-", *map(_normalise, tokens), "-END-", "-END2-"]

    def tag(self, place: int) -> str:
        """The tag of the token at `place`."""
        start = place
        while start > 0 and None in self._tags[max(0, start - 2) : start]:
            start -= 1
        for at in range(start, place + 1):
            if self._tags[at] is None:
                self._tags[at] = self._tagger.predict(self._features(at))
        return str(self._tags[place])

    def _features(self, place: int) -> list[str]:
        last = self._tags[place - 1] if place > 0 else "-START-"
        other = self._tags[place - 2] if place > 1 else ("-START-" if place == 1 else "-START2-")
        token = self._tokens[place]
        before2, before, word, after, after2 = self._normal[place : place + 5]
        return [
            "bias",
            f"i suffix {token[-3:]}",
            f"i pref1 {token[:1]}",
            f"i-1 tag {last}",
            f"i-2 tag {other}",
            f"i tag+i-2 tag {last} {other}",
            f"i word {word}",
            f"i-1 tag+i word {last} {word}",
            f"i-1 word {before}",
            f"i-1 suffix {before[-3:]}",
            f"i-2 word {before2}",
            f"i+1 word {after}",
            f"i+1 suffix {after[-3:]}",
            f"i+2 word {after2}",
        ]


def _normalise(token: str) -> str:
    if "-" in token and token[0] != "-":
        return "!HYPHEN"
    if token.isdigit() and len(token) == 4:
        return "!YEAR"
    if token[:1].isdigit():
        return "!DIGITS"
    return token.lower()


def data_folders() -> list[Path]:
    """Where NLTK looks for its data: `NLTK_DATA` first, then the usual places."""
    named = [Path(part) for part in os.environ.get("NLTK_DATA", "").split(os.pathsep) if part]
    prefix = Path(sys.prefix)
    usual = [Path.home() / "nltk_data", *(prefix / part / "nltk_data" for part in ("", "share", "lib"))]
    system = [Path(root) / "nltk_data" for root in ("/usr/share", "/usr/local/share", "/usr/lib", "/usr/local/lib")]
    return named + usual + system


def available() -> bool:
    """Whether the weights are on this machine."""
    return next(_sources(), None) is not None


@cache
def tagger() -> Tagger:
    """The tagger of the first folder that has the weights.

    Raises:
        RuntimeError: no folder has them.
    """
    source = next(_sources(), None)
    if source is None:
        raise RuntimeError(
            f"NLTK's English tagger ({_JSON}) is in none of NLTK's data folders: get it with "
            f"`python -m nltk.downloader {_JSON}` or set NLTK_DATA to a folder that has taggers/{_JSON}; "
            "CHAIR's flavour pattern and AMBER's tagger rules do without."
        )
    return source.read()


class _Source:
    """The weights in one folder or zip file, in NLTK's newer (JSON) or older (pickle) form."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.folder = folder / "taggers" / name
        self.archive = folder / "taggers" / f"{name}.zip"

    @property
    def files(self) -> tuple[str, ...]:
        if self.name == _PICKLE:
            return (f"{_PICKLE}.pickle",)
        return tuple(f"{_JSON}.{part}.json" for part in ("weights", "tagdict", "classes"))

    def exists(self) -> bool:
        return all((self.folder / file).is_file() for file in self.files) or self.archive.is_file()

    def read(self) -> Tagger:
        if self.name == _PICKLE:
            with self._open(self.files[0]) as file:
                return Tagger(*safe_pickle.load(file))
        parts: list[Any] = []
        for name in self.files:
            with self._open(name) as file:
                parts.append(json.load(file))
        return Tagger(*parts)

    def _open(self, file: str) -> IO[bytes]:
        if (self.folder / file).is_file():
            return open(self.folder / file, "rb")
        with zipfile.ZipFile(self.archive) as archive:
            return io.BytesIO(archive.read(f"{self.name}/{file}"))


def _sources() -> Iterator[_Source]:
    for folder in data_folders():
        for name in (_JSON, _PICKLE):
            source = _Source(name, folder)
            if source.exists():
                yield source
