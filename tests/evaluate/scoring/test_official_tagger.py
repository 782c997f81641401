"""NLTK's own weights, where they are at hand: the published CHAIR numbers, and NLTK's own tags."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from grounddecode.evaluate.language import tagger
from grounddecode.evaluate.language.tokens import words
from grounddecode.evaluate.scoring import amber, chair
from grounddecode.evaluate.scoring.amber_nouns import NounReader

GOLDEN = Path(__file__).parents[4] / "shared/golden"
pytestmark = pytest.mark.skipif(
    not (GOLDEN / "nltk_data").is_dir(), reason="NLTK's weights are not beside the repository"
)
#: CHAIR_s, CHAIR_i and recall in percent as OPERA's program prints them: with its own ground truth, with chair.pkl's.
PUBLISHED = {
    "llava-1.5_greedy": ((44.8, 12.7, 80.0), (45.0, 12.7, 80.4)),
    "llava-1.5_beam5": ((48.8, 13.8, 79.9), (48.8, 13.9, 80.3)),
    "llava-1.5_ours": ((44.6, 12.7, 79.2), (44.6, 12.8, 79.5)),
    "instructblip_greedy": ((58.8, 23.7, 69.1), (58.8, 23.7, 69.4)),
    "minigpt4_greedy": ((31.6, 9.8, 62.7), (31.8, 9.9, 63.0)),
}


@pytest.fixture(autouse=True)
def _weights(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("NLTK_DATA", str(GOLDEN / "nltk_data"))
    tagger.tagger.cache_clear()
    yield
    tagger.tagger.cache_clear()


@cache
def captions(name: str) -> list[dict[str, object]]:
    path = GOLDEN / "chair" / "captions" / f"opera_{name}.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@cache
def truth() -> dict[str, dict[str, list[str]]]:
    return json.loads((GOLDEN / "chair" / "gt_objects.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_chair_to_the_digit(name: str) -> None:
    assert chair.default_flavour() == "wordnet-words/pattern-gt"
    for (flavour, objects), row in zip(
        (("wordnet", "wordnet"), ("wordnet-words/pattern-gt", "pattern")), PUBLISHED[name], strict=True
    ):
        found = chair.score(captions(name), truth()[objects], flavour).summary
        assert tuple(round(100 * found[key], 1) for key in ("chair_s", "chair_i", "recall")) == row


def test_every_tag_is_nltks() -> None:
    """NLTK's class with the same weights, which it no longer reads itself."""
    perceptron = pytest.importorskip("nltk.tag.perceptron")
    ours, theirs = tagger.tagger(), perceptron.PerceptronTagger(load=False)
    theirs.model.weights, theirs.tagdict = dict(ours._weights), dict(ours._known)
    theirs.classes = theirs.model.classes = set(ours._classes)
    for caption in captions("minigpt4_greedy")[:200]:
        tokens = words(str(caption["caption"]))
        assert ours.tags(tokens) == [tag for _, tag in theirs.tag(tokens)]


def test_ambers_nouns_come_from_it() -> None:
    """A perfect describer of AMBER's own words: the tagger takes them for nouns where a sentence makes them such."""
    data = amber.load(GOLDEN / "amber")
    reader = NounReader(data.words)
    assert reader.tagger == "nltk"
    assert reader.nouns("A man is sailing on a boat, and the boats sail in the sea.") == ["man", "boat", "boat", "sea"]
