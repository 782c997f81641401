"""AMBER: nouns, candidates, counters and rounding, against a second telling of the official rules."""

import json
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grounddecode.evaluate.answers import scored
from grounddecode.evaluate.language import similarity
from grounddecode.evaluate.scoring import amber, amber_nouns

GOLDEN = Path(__file__).parents[4] / "shared/golden/amber"
needs_golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason="the golden files are not beside the repository")

RELATION = {
    "dog": ["puppy", "animal"],
    "cat": ["animal"],
    "tree": ["forest", "leave"],
    "sea": ["water"],
    "orange": [],
    "TV": ["screen"],
    "car": [],
}
ANNOTATIONS = [
    {"id": 1, "type": "generative", "truth": ["dog", "tree", "dog"], "hallu": ["cat", "sea"]},
    {"id": 2, "type": "generative", "truth": ["TV"], "hallu": ["car"]},
    {"id": 3, "type": "discriminative-hallucination", "truth": "no"},
    {"id": 4, "type": "discriminative-attribute-state", "truth": "yes"},
    {"id": 5, "type": "discriminative-attribute-state", "truth": "no"},
    {"id": 6, "type": "discriminative-attribute-number", "truth": "no"},
    {"id": 7, "type": "discriminative-attribute-action", "truth": "yes"},
    {"id": 8, "type": "discriminative-relation", "truth": "yes"},
    {"id": 9, "type": "relation", "truth": "no"},
]
DATA = amber.AmberData(ANNOTATIONS, RELATION, frozenset({"orange"}), {})


class Listed(amber_nouns.NounReader):
    """Nouns given as words between blanks: no language in the way."""

    def __init__(self):
        self.tagger = "nltk"

    def nouns(self, text):
        return text.split()


def judge(text, number=1, similar=None):
    same = similar or similarity.similarity("exact")
    return amber.judge(text.split(), ANNOTATIONS[number - 1], DATA, same)


@pytest.mark.parametrize(
    ("nouns", "invented", "named", "thought"),
    [
        ("", 0, 0, 0),
        ("dog", 0, 1, 0),
        ("dog dog dog", 0, 1, 0),  # the second annotated dog is never reached
        ("puppy tree", 0, 2, 0),
        ("leave forest", 0, 1, 0),
        ("animal", 0, 1, 0),  # stands for dog first; cat is not looked at
        ("cat", 1, 0, 1),  # an expected invention is an invention
        ("water water", 2, 0, 1),
        ("car", 1, 0, 0),
        ("orange", 0, 0, 0),  # safe everywhere
        ("orange cat car dog", 2, 1, 1),
    ],
)
def test_nouns_are_judged_in_the_official_order(nouns, invented, named, thought):
    assert judge(nouns) == (invented, named, thought)


def test_similar_words(tmp_path):
    path = tmp_path / "table.json"
    path.write_text(
        json.dumps(
            {"model": "en_core_web_lg", "threshold": 0.8, "pairs": [["car", "tree"], ["sea", "car"], ["cat", "dog"]]}
        )
    )
    table = similarity.similarity(f"table:{path}")
    assert table.official
    # car: close to sea (an expected invention, marked) and to tree (true, so that it is none)
    assert judge("car", similar=table) == (0, 1, 1)
    # cat is an expected invention by name, then close to dog: both are marked, nothing is invented
    assert judge("cat", similar=table) == (0, 1, 1)
    assert judge("TV", similar=table) == (1, 0, 0)


def write_data(folder, **files):
    for name, value in {"annotations": ANNOTATIONS, "relation": RELATION, **files}.items():
        (folder / f"{name}.json").write_text(json.dumps(value))
    (folder / "safe_words.txt").write_text("snack\norange")
    return folder


def responses(*pairs):
    return [{"id": number, "response": text} for number, text in pairs]


def test_descriptions_by_hand(tmp_path):
    data = amber.load(write_data(tmp_path))
    result = amber.score(
        data, responses((1, "Two dogs and a cat near trees."), (2, "A TV and TVs.")), "g", tagger="rules"
    )
    # nouns: dog cat tree | TV (TVs is no lemma of WordNet's); invented: cat
    assert result["generative"] == {
        "chair": round(1 / 4.001 * 100, 1),
        "cover": round(3 / 4.001 * 100, 1),
        "hal": round(100 - 1 / 2.001 * 100, 1),
        "cog": round(1 / 3.001 * 100, 1),
        "n": 2,
        "n_nouns": 4,
    }
    assert result["official"] is False
    assert "not AMBER's" in result["warnings"][0]


def test_an_empty_response_invents_nothing():
    result = amber.score(DATA, responses((1, ""), (2, "cars")), "g", tagger="rules")["generative"]
    assert (result["chair"], result["hal"]) == (round(1 / 1.001 * 100, 1), 50.0)


def test_no_description_at_all_prints_what_the_program_prints():
    result = amber.score(DATA, responses((3, "No")), "g", tagger="rules")
    assert [result["generative"][name] for name in ("chair", "cover", "hal", "cog")] == [0.0, 0.0, 100.0, 0.0]
    assert "Hal 100.0" in result["warnings"][-1]


def test_questions_by_hand():
    answers = responses((3, "No"), (4, "Yes"), (5, "Yes"), (6, "No"), (7, "yes"), (8, "No"), (9, "No"))
    found = amber.score(DATA, answers, "d")["discriminative"]
    # total: right 3 4 6 9 of 7; "No" said 4, 3 of them right; truly no 4, 3 found
    assert found["total"] == {"accuracy": 57.1, "precision": 75.0, "recall": 75.0, "f1": 75.0, "n": 7}
    # one of one, over 1.001, and F1 with 0.001 instead of 0.0001: 2 * .999^2 / 1.999
    assert found["existence"] == {"accuracy": 99.9, "precision": 99.9, "recall": 99.9, "f1": 99.9, "n": 1}
    # three groups, three times 0.001: 2 / 4.003; 1 / 1.003; 1 / 2.003
    assert found["attribute"] == {"accuracy": 50.0, "precision": 99.7, "recall": 49.9, "f1": 66.5, "n": 4}
    assert found["state"] == {"accuracy": 50.0, "precision": 0.0, "recall": 0.0, "f1": 0.0, "n": 2}
    assert found["number"]["recall"] == 99.9
    assert found["action"]["accuracy"] == 0.0
    # relation: 1 of 2; "No" twice, once right
    assert found["relation"] == {"accuracy": 50.0, "precision": 50.0, "recall": 99.9, "f1": 66.6, "n": 2}


@pytest.mark.parametrize("text", ["no", "No.", " No", "NO", "Yes, it is", "", "nothing"])
def test_other_strings_count_as_neither(text):
    found = amber.score(DATA, responses((3, text)), "d")["discriminative"]["existence"]
    assert (found["accuracy"], found["precision"], found["recall"]) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("task", "groups"),
    [
        ("d", {"total", "existence", "attribute", "state", "number", "action", "relation"}),
        ("de", {"existence"}),
        ("da", {"attribute", "state", "number", "action"}),
        ("dr", {"relation"}),
    ],
)
def test_tasks(task, groups):
    result = amber.score(DATA, responses((3, "No"), (8, "Yes")), task)
    assert set(result["discriminative"]) == groups
    assert "generative" not in result


def test_amber_score_needs_both_tasks():
    both = amber.score(DATA, responses((1, "a dog, a car"), (3, "No")), "a", tagger="rules")
    f1 = both["discriminative"]["total"]["f1"]
    assert both["amber_score"] == (100 - both["generative"]["chair"] + f1) / 2
    assert "amber_score" not in amber.score(DATA, responses((3, "No")), "a", tagger="rules")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Yes.", "Yes"),
        ("no, there is not", "No"),
        ("NO", "No"),
        ("The answer is yes", "Yes"),
        ("There isn't one", "No"),
        ("There isn’t one", "No"),
        ("It is not", "No"),
        ("Maybe", "Maybe"),
        ("Nothing", "Nothing"),
        ("", ""),
        ("Yes, but no", "Yes"),
    ],
)
def test_parsed_answers(text, answer):
    assert amber.parse_answer(text) == answer


def test_parsed_answers_are_scored_and_their_rule_is_said():
    result = amber.score(DATA, responses((3, "no, it is not"), (4, "Yes!")), "d", answers="parsed")
    assert result["discriminative"]["total"]["n"] == 2
    assert result["discriminative"]["existence"]["recall"] == 99.9
    assert result["answers_rule"] == amber.PARSING_RULE
    assert amber.score(DATA, responses((3, "no, it is not")), "d")["discriminative"]["existence"]["recall"] == 0.0


def test_counters_start_where_metrics_txt_says(tmp_path):
    (tmp_path / "metrics.txt").write_text("qa_correct_num=1\nqa_correct_score=1\n\nignored line\n")
    data = amber.load(write_data(tmp_path))
    assert amber.score(data, responses((3, "Yes")), "d")["discriminative"]["total"]["accuracy"] == 50.0
    (tmp_path / "metrics.txt").write_text("qa_correct_num=__import__('os')")
    with pytest.raises(ValueError, match="which is no number"):
        amber.load(tmp_path)


def test_repeated_ids_count_again():
    result = amber.score(DATA, responses((3, "No"), (3, "Yes")), "d")
    assert result["discriminative"]["existence"]["n"] == 2
    assert "1 responses repeat an id" in result["warnings"][0]


@pytest.mark.parametrize("number", [0, 10, -1, "10", 0.0, "three"])
def test_other_ids_are_refused(number):
    with pytest.raises(ValueError, match="is not one of 1 to 9"):
        amber.score(DATA, [{"id": number, "response": "No"}], "d")


def test_other_errors(tmp_path):
    with pytest.raises(ValueError, match="is no text"):
        amber.score(DATA, [{"id": 3, "response": None}], "d")
    with pytest.raises(ValueError, match="no task 'x'"):
        amber.score(DATA, [], "x")
    with pytest.raises(ValueError, match="cannot be read"):
        amber.load(tmp_path)
    with pytest.raises(ValueError, match="no similarity 'close'"):
        similarity.similarity("close")
    with pytest.raises(RuntimeError, match="spaCy model no_such_model cannot be loaded"):
        similarity.similarity("spacy:no_such_model")
    (tmp_path / "t.json").write_text("[]")
    with pytest.raises(ValueError, match="is no table"):
        similarity.similarity(f"table:{tmp_path / 't.json'}")
    broken = amber.AmberData(
        [{"id": 1, "type": "generative", "truth": ["hut"], "hallu": []}], RELATION, frozenset(), {}
    )
    with pytest.raises(ValueError, match="lacks the annotated object 'hut'"):
        amber.score(broken, responses((1, "a dog")), "g", tagger="rules")


def test_spacy_is_asked_once_a_pair_and_its_table_gives_the_same(tmp_path, monkeypatch):
    asked = []

    class Document:
        def __init__(self, word):
            self.word = word

        def similarity(self, other):
            asked.append((self.word, other.word))
            return 0.9 if {self.word, other.word} == {"car", "tree"} else 0.8  # 0.8 is not above 0.8

    fake = type("spacy", (), {"load": staticmethod(lambda model: Document)})
    monkeypatch.setattr(similarity.importlib, "import_module", lambda name: fake)
    same = similarity.similarity("spacy")
    assert same.official
    assert judge("car car", similar=same) == (0, 1, 0)
    assert len(asked) == len(set(asked))
    assert similarity.write_table(RELATION, tmp_path / "t.json") == 1
    table = similarity.similarity(f"table:{tmp_path / 't.json'}")
    assert judge("car car", similar=table) == (0, 1, 0)
    assert table.official
    similarity.write_table(RELATION, tmp_path / "small.json", "en_core_web_sm")
    assert not similarity.similarity(f"table:{tmp_path / 'small.json'}").official


# --- a second telling of the rules, with flags in two lists as the paper's program keeps them


def by_flags(nouns, truth, hallu, same, relation=RELATION, safe=("orange",)):
    words, owner = [], []
    for place, thing in enumerate(truth):
        for word in relation[thing]:
            words.append(word)
            owner.append(place)
    words, owner = words + truth, owner + list(range(len(truth)))
    bad, bad_owner = [], []
    for place, thing in enumerate(hallu):
        for word in relation[thing]:
            bad.append(word)
            bad_owner.append(place)
    bad, bad_owner = bad + hallu, bad_owner + list(range(len(hallu)))
    hit, bad_hit, invented = [0] * len(truth), [0] * len(hallu), 0
    for noun in nouns:
        if noun in safe:
            continue
        if noun in words:
            hit[owner[words.index(noun)]] = 1
            continue
        if noun in bad:
            bad_hit[bad_owner[bad.index(noun)]] = 1
        for place, word in enumerate(bad):
            if noun == word or {noun, word} in same:
                bad_hit[bad_owner[place]] = 1
                break
        for place, word in enumerate(words):
            if noun == word or {noun, word} in same:
                hit[owner[place]] = 1
                break
        else:
            invented += 1
    return invented, sum(hit), sum(bad_hit)


WORDS = sorted({word for key, others in RELATION.items() for word in (key, *others)})
things = st.lists(st.sampled_from(sorted(RELATION)), min_size=1, max_size=4)
pairs = st.lists(st.tuples(st.sampled_from(WORDS), st.sampled_from(WORDS)), max_size=5)


@given(st.lists(st.sampled_from(WORDS), max_size=8), things, things, pairs)
@settings(max_examples=300, deadline=None)
def test_judgement_against_the_second_telling(nouns, truth, hallu, close):
    near = {}
    for one, other in close:
        near.setdefault(one, {one}).add(other)
        near.setdefault(other, {other}).add(one)
    same = similarity.Similarity("test", lambda word: near.get(word, (word,)))
    expected = by_flags(nouns, truth, hallu, [{one, other} for one, other in close])
    assert amber.judge(nouns, {"truth": truth, "hallu": hallu}, DATA, same) == expected


@needs_golden
def test_golden_data_and_a_perfect_run(tmp_path):
    data = amber.load(GOLDEN)
    assert len(data.words) == 418
    perfect = []
    for entry in data.annotations:
        text = (
            ", ".join(f"the {word}" for word in entry["truth"])
            if entry["type"] == "generative"
            else entry["truth"].capitalize()
        )
        perfect.append({"id": entry["id"], "response": text})
    (tmp_path / "responses.json").write_text(json.dumps(perfect))
    result = scored.score_amber(GOLDEN, tmp_path / "responses.json", "a", tagger="rules")
    assert (result["generative"]["chair"], result["generative"]["hal"], result["generative"]["n"]) == (0.0, 0.0, 1004)
    assert result["discriminative"]["total"] == {
        "accuracy": 100.0,
        "precision": 100.0,
        "recall": 100.0,
        "f1": 100.0,
        "n": 14216,
    }
    # 2 / 2.001 is 99.95 per cent, which the program rounds up
    assert result["discriminative"]["existence"] == {
        "accuracy": 100.0,
        "precision": 100.0,
        "recall": 100.0,
        "f1": 100.0,
        "n": 4924,
    }
    assert {name: group["n"] for name, group in result["discriminative"].items()} == {
        "total": 14216,
        "existence": 4924,
        "attribute": 7628,
        "state": 4764,
        "number": 2072,
        "action": 792,
        "relation": 1664,
    }


@needs_golden
def test_golden_candidates_against_the_second_telling():
    import random

    data = amber.load(GOLDEN)
    rng = random.Random(0)
    words = sorted(data.words)
    exact = similarity.similarity("exact")
    for truth in data.annotations[:1004]:
        nouns = rng.sample(truth["truth"] + truth["hallu"], 3) + rng.sample(words, 5)
        expected = by_flags(nouns, truth["truth"], truth["hallu"], [], data.relation, data.safe_words)
        assert amber.judge(nouns, truth, data, exact) == expected


def test_the_maker_of_the_table_ends_with_one_sentence_without_spacy(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "spacy", None)
    for relation, said in (('{"sky": []}', "en_core_web_lg cannot be loaded"), ("[]", "is not AMBER's")):
        (tmp_path / "relation.json").write_text(relation)
        monkeypatch.setattr(sys, "argv", ["similarity", "--data", str(tmp_path), "--out", str(tmp_path / "t.json")])
        with pytest.raises(SystemExit) as left:
            similarity._main()
        assert left.value.code == 2
        err = capsys.readouterr().err
        assert (said in err, err.count("\n")) == (True, 1)
