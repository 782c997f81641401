"""AMBER's nouns: the official tagger's, with made weights, and those of our rules."""

import json

import pytest

from grounddecode.evaluate.language import tagger
from grounddecode.evaluate.scoring import amber, amber_nouns

DATA = amber.AmberData(
    [{"id": 1, "type": "generative", "truth": ["dog"], "hallu": ["cat"]}],
    {"dog": ["puppy"], "cat": [], "orange": [], "TV": ["screen"], "car": []},
    frozenset(),
    {},
)


def test_nouns_with_the_official_tagger(tmp_path, monkeypatch):
    place = tmp_path / "taggers/averaged_perceptron_tagger_eng"
    place.mkdir(parents=True)
    parts = {
        "weights": {"bias": {"NN": 1.0}},
        "tagdict": {"orange": "JJ", "dogs": "NNS", "Dogs": "NNS"},
        "classes": ["NN", "JJ", "NNS"],
    }
    for part, value in parts.items():
        (place / f"averaged_perceptron_tagger_eng.{part}.json").write_text(json.dumps(value))
    monkeypatch.setenv("NLTK_DATA", str(tmp_path))
    tagger.tagger.cache_clear()
    reader = amber_nouns.NounReader(DATA.words)
    assert reader.tagger == "nltk"
    assert reader.nouns("An orange cat, two dogs, Dogs, TV, TVs, screens.") == ["cat", "dog", "TV", "screen"]
    result = amber.score(DATA, [{"id": 1, "response": "dogs"}], "g")
    assert (result["tagger"], result["official"]) == ("nltk", False)
    tagger.tagger.cache_clear()


@pytest.mark.parametrize(
    ("text", "nouns"),
    [
        ("an orange car", ["car"]),
        ("an orange", ["orange"]),
        ("the cat is orange", ["cat"]),
        ("a light blue car with a light", ["car", "light"]),
        ("they watch the dog with a watch", ["dog", "watch"]),
        ("ready to park the cars in a park", ["car", "park"]),
        ("leave, leaves", ["leave"]),  # leaves is a form of leaf
        ("a dog can be seen with a can, a trash can", ["dog", "can", "can"]),
        ("a hot car, the car looks hot", ["car", "car"]),
        ("a man watches cars, people watch cars", ["car", "car"]),
        ("the man watch, people watches", ["watch", "watch"]),  # no verb agrees so
        ("the sky is sailing, the sailing", ["sailing"]),
    ],
)
def test_nouns_by_our_rules(text, nouns):
    words = {"orange", "car", "cat", "light", "watch", "dog", "park", "leave", "can", "hot", "sailing"}
    assert amber_nouns.NounReader(words, "rules").nouns(text) == nouns


def test_words_outside_the_table_get_a_regular_plural():
    reader = amber_nouns.NounReader({"gizmo", "fez", "lorry-toy", "berry-toy", "widgety"}, "rules")
    assert reader.nouns("gizmos fezes widgeties lorry-toys") == ["gizmo", "fez", "widgety", "lorry-toy"]


def test_taggers_that_are_not_there(tmp_path, monkeypatch):
    monkeypatch.setattr(tagger, "data_folders", lambda: [tmp_path])
    tagger.tagger.cache_clear()
    assert amber_nouns.NounReader({"dog"}).tagger == "rules"
    with pytest.raises(RuntimeError, match="NLTK_DATA"):
        amber_nouns.NounReader({"dog"}, "nltk")
    with pytest.raises(ValueError, match="no tagger 'best'"):
        amber_nouns.NounReader({"dog"}, "best")
