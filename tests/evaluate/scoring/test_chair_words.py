"""Tokens, singular forms and tagged lemmas, each against what the original library says."""

import json

import pytest

from grounddecode.evaluate.answers import scored
from grounddecode.evaluate.language import tagger
from grounddecode.evaluate.language.singular import singular
from grounddecode.evaluate.language.tokens import words
from grounddecode.evaluate.scoring import chair

# Written down from NLTK 3.8.1 `word_tokenize`'s two parts (Punkt with its abbreviations, then the Treebank-like rules).
TOKENISED = [
    ("It's a dog.", "It 's a dog ."),
    ("the man's dog can't see the dogs' \"hot dog\".", "the man 's dog ca n't see the dogs ' `` hot dog '' ."),
    ('a cat (black) sits; dogs: two! "look," he says.', "a cat ( black ) sits ; dogs : two ! `` look , '' he says ."),
    ("cannot go--really? gonna", "can not go -- really ? gon na"),
    ("it's 5 p.m. now, u.s. highway 395. the end...", "it 's 5 p.m. now , u.s. highway 395. the end ..."),
    ("vitamin b. the 1. dog 2. cat no. 5 a.m.", "vitamin b. the 1. dog 2. cat no . 5 a.m ."),
    ("one sentence. another one", "one sentence . another one"),
    ("in 1990. Then", "in 1990 . Then"),
    ("he can't. it is", "he ca n't . it is"),
    ("dog.the end., and", "dog.the end. , and"),
    ("$5 50% #1 @x * star.", "$ 5 50 % # 1 @ x * star ."),
    ("“quoted” it’s", "“ quoted ” it ’ s"),
    ("'tis d'ye 1,000 10:30, a:b", "'t is d 'ye 1,000 10:30 , a : b"),
    ("'x' dogs", "' x ' dogs"),
    ("a [b] {c} <d>", "a [ b ] { c } < d >"),
    ("t-shirt x-ray", "t-shirt x-ray"),
    ("the dog.) next", "the dog . ) next"),
    ("2.: 3.! a.; x. , no. end", "2. : 3. ! a. ; x. , no . end"),  # a mark begins no sentence
    ("#1. dog &2. cat", "# 1. dog & 2. cat"),
    ("wait.! it.? is", "wait. ! it. ? is"),  # only the last end of a stretch without blanks counts
    ('he said "dog.". the end', "he said `` dog. '' . the end"),
    ('a dog. " the end', "a dog. `` the end"),  # the mark goes back to the sentence before, whose dot is not its last
    ("a dog. ) the end", "a dog . ) the end"),
    ("a dog.\n) the end", "a dog. ) the end"),
    ("1. cat., yes", "1 . cat. , yes"),
    ("   ", ""),
]


@pytest.mark.parametrize(("text", "tokens"), TOKENISED)
def test_tokens(text, tokens):
    assert words(text) == tokens.split()


def test_tokens_against_nltk():
    nltk = pytest.importorskip("nltk", reason="NLTK is not needed and not installed")
    tokenizer = nltk.tokenize.NLTKWordTokenizer()
    for text, _ in TOKENISED:
        sentence = text.replace(".", "")  # one sentence: the sentence model is not in question here
        assert words(sentence) == tokenizer.tokenize(sentence)


@pytest.mark.parametrize(
    ("plural", "one"),
    [
        ("dogs", "dog"),
        ("dog", "dog"),
        ("bus", "bu"),
        ("buses", "bus"),
        ("ties", "ty"),
        ("tennis", "tenni"),
        ("glass", "glas"),
        ("glasses", "glass"),
        ("collies", "collies"),
        ("people", "person"),
        ("women", "woman"),
        ("leaves", "leaf"),
        ("knives", "knife"),
        ("wolves", "wolf"),
        ("canoes", "cano"),
        ("shoes", "shoe"),
        ("mice", "mouse"),
        ("scissors", "scissors"),
        ("ears", "ears"),  # "shears" ends with it
        ("your", "ymy"),  # our is an irregular of my
        ("analyses", "analysis"),
        ("reanalyses", "reanalyasis"),
        ("bases", "basis"),
        ("oases", "oase"),
        ("media", "medium"),
        ("data", "datum"),
        ("alumnae", "alumna"),
        ("quizzes", "quiz"),
        ("vertices", "vertex"),
        ("matrices", "matrix"),
        ("movies", "movie"),
        ("babies", "baby"),
        ("boxes", "box"),
        ("noses", "nose"),
        ("glucose", "glucose"),
        ("fathers-in-law", "father-in-law"),
        ("dogs'", "dog's"),
        ("news", "news"),
        ("s", "s"),
    ],
)
def test_singular(plural, one):
    assert singular(plural) == one


# --- tagged words, with a tagger whose every weight we choose


def write_tagger(folder, tags, form="json"):
    """NLTK's data folder with the words of `tags` known, every other word a noun."""
    import pickle
    import zipfile

    weights, classes = {"bias": {"NN": 1.0}}, ["NN", "NNS", "VBN", "VBG", "VBZ", "JJ", "RB", "DT"]
    name = "averaged_perceptron_tagger" + ("" if form == "pickle" else "_eng")
    place = folder / "taggers" / name
    place.mkdir(parents=True)
    if form == "pickle":
        (place / f"{name}.pickle").write_bytes(pickle.dumps((weights, tags, set(classes)), 2))
    else:
        for part, value in (("weights", weights), ("tagdict", tags), ("classes", classes)):
            (place / f"{name}.{part}.json").write_text(json.dumps(value))
    if form == "zip":
        with zipfile.ZipFile(folder / "taggers" / f"{name}.zip", "w") as archive:
            for file in list(place.iterdir()):
                archive.write(file, f"{name}/{file.name}")
                file.unlink()
        place.rmdir()


@pytest.fixture
def tagged(tmp_path, monkeypatch):
    def install(tags, form="json"):
        write_tagger(tmp_path, tags, form)
        monkeypatch.setenv("NLTK_DATA", str(tmp_path))
        tagger.tagger.cache_clear()

    yield install
    tagger.tagger.cache_clear()


TAGS = {
    "seated": "VBN",
    "skiing": "VBG",
    "boating": "VBG",
    "tied": "VBN",
    "parked": "VBN",
    "dogs": "NNS",
    "hotter": "JJ",
}


@pytest.mark.parametrize("form", ["json", "zip", "pickle"])
@pytest.mark.parametrize("flavour", ["wordnet", "wordnet-words/pattern-gt"])
def test_wordnet_words(tagged, form, flavour):
    tagged(TAGS, form)

    def named(caption):
        return [mention.object for mention in chair.mentions(caption, flavour)]

    assert named("People seated, skiing and boating, tied") == ["person", "chair", "skis", "boat", "tie"]
    assert named("men and women, vases, geese") == ["person", "bird"]  # men and vas are lemmas
    assert named("a bus, buses, ties") == ["bus", "bus", "tie"]
    assert named("wine glasses, tennis rackets, hot dogs") == ["wine glass", "tennis racket", "hot dog"]
    assert named("dogs parked in a park") == ["dog"]
    assert chair.default_flavour() == "wordnet-words/pattern-gt"


def test_the_default_flavour_is_that_of_published_tables_where_its_data_are(tagged, tmp_path):
    (tmp_path / "c.jsonl").write_text('{"image_id": 1, "caption": "a seated dog"}\n')
    (tmp_path / "g.json").write_text('{"1": ["dog"]}')
    tagged(TAGS)
    found = scored.score_chair(tmp_path / "c.jsonl", tmp_path / "g.json")
    assert (found["flavour"], found["chair_i"], found["warnings"]) == ("wordnet-words/pattern-gt", 0.5, [])


def test_without_its_data_the_default_is_pattern_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(tagger, "data_folders", lambda: [tmp_path])
    (tmp_path / "c.jsonl").write_text('{"image_id": 1, "caption": "a seated dog"}\n')
    (tmp_path / "g.json").write_text('{"1": ["dog"]}')
    found = scored.score_chair(tmp_path / "c.jsonl", tmp_path / "g.json")
    assert (found["flavour"], found["chair_i"]) == ("pattern", 0.0)
    assert any("wordnet-words/pattern-gt, which needs NLTK" in warning for warning in found["warnings"])
    assert not scored.score_chair(tmp_path / "c.jsonl", tmp_path / "g.json", flavour="pattern")["warnings"]


def test_the_tag_decides_the_lemma(tagged):
    tagged({"dogs": "JJ", "skis": "VBZ"})
    assert chair.mentions("dogs", "wordnet") == []  # an adjective has no plural
    assert chair.mentions("skis", "wordnet")[0].surface == "ski"


def test_without_the_weights_there_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(tagger, "data_folders", lambda: [tmp_path])
    tagger.tagger.cache_clear()
    with pytest.raises(RuntimeError, match=r"nltk\.downloader averaged_perceptron_tagger_eng"):
        chair.mentions("dogs", "wordnet")
    assert chair.default_flavour() == "pattern"


def test_perceptron_adds_weights_and_breaks_ties_by_the_alphabet():
    weights = {
        "bias": {"NN": 1.0, "VB": 1.0},
        "i-1 tag DT": {"NN": 0.5},
        "i-1 tag+i word TO run": {"VB": 2.0},
        "i suffix ing": {"VBG": 5.0},
        "i pref1 R": {"NNP": 9.0},
        "i+1 word !YEAR": {"IN": 9.0},
        "i-2 word -START-": {"RB": 0.1},
    }
    known = {"the": "DT", "to": "TO"}
    reader = tagger.Tagger(weights, known, ["NN", "VB", "VBG", "NNP", "IN", "RB"])
    assert reader.tags(["run"]) == ["VB"]  # NN and VB are equal: the later one
    assert reader.tags(["the", "run"]) == ["DT", "NN"]
    assert reader.tags(["to", "run"]) == ["TO", "VB"]
    assert reader.tags(["Running", "x", "1999"]) == ["NNP", "IN", "VB"]
    assert reader.tags(["running"]) == ["VBG"]


def test_perceptron_against_nltk():
    perceptron = pytest.importorskip("nltk.tag.perceptron", reason="NLTK is not needed and not installed")
    import random

    rng = random.Random(0)
    classes = ["NN", "NNS", "JJ", "VB", "DT", "."]
    vocabulary = ["dog", "Dogs", "the", "a", "1999", "12", "x-ray", "-", "runs", ".", "orange", "É"]
    texts = [[rng.choice(vocabulary) for _ in range(rng.randint(1, 12))] for _ in range(100)]
    theirs = perceptron.PerceptronTagger(load=False)
    theirs.classes = theirs.model.classes = set(classes)
    theirs.tagdict = {"the": "DT", ".": "."}
    weights = {}
    for text in texts:
        context = [*theirs.START, *map(theirs.normalize, text), *theirs.END]
        for place, word in enumerate(text):
            for feature in theirs._get_features(place, word, context, rng.choice(classes), rng.choice(classes)):
                weights.setdefault(feature, {c: round(rng.uniform(-2, 2), 1) for c in rng.sample(classes, 3)})
    theirs.model.weights = weights
    ours = tagger.Tagger(weights, theirs.tagdict, classes)
    for text in texts:
        tags = [tag for _, tag in theirs.tag(text)]
        assert ours.tags(text) == tags
        place = rng.randrange(len(text))
        assert tagger.Tagged(ours, text).tag(place) == tags[place]  # asked for alone
