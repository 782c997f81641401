"""CHAIR: the word rules with their bugs, the counts, the ground truth, and the public captions."""

import json
import pickle
from collections import defaultdict
from pathlib import Path

import pytest

from grounddecode.evaluate import json_lines
from grounddecode.evaluate.answers import scored
from grounddecode.evaluate.data import safe_pickle
from grounddecode.evaluate.scoring import chair

GOLDEN = Path(__file__).parents[4] / "shared/golden/chair"
needs_golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason="the golden files are not beside the repository")


def named(caption, flavour="pattern"):
    return [mention.object for mention in chair.mentions(caption, flavour)]


@pytest.mark.parametrize(
    ("caption", "objects"),
    [
        ("A man rides a horse.", ["person", "horse"]),
        ("The bus stops beside a minibus and an airbus", []),  # singularize cuts their s
        ("Two buses wait", ["bus"]),
        ("He wears ties and a tie", ["tie"]),  # ties becomes ty
        ("a tennis racket, a tennis racquet", ["tennis racket"]),
        ("rackets", ["tennis racket"]),
        ("a glass, glasses, a wine glass, wine glasses", ["wine glass", "wine glass"]),
        ("collies and doggies and puppies", ["dog"]),
        ("People, men, women, children, geese and oxen", ["person", "person", "person", "person", "bird", "cow"]),
        ("a motor bike, a motor cycle, a motorbike", ["motorcycle", "motorcycle"]),
        ("a cheesecake, a cupcake", ["cake"]),
        ("an iPhone", []),
        ("a stove top oven", ["oven", "oven"]),  # three words are no double word
        ("a televison and a television", ["tv", "tv"]),
        ("an orange light", ["orange"]),
        ("she bows", ["tie"]),
        ("a bow tie", ["tie"]),
        ("hot dogs, teddy bears and traffic lights", ["hot dog", "teddy bear", "traffic light"]),
        ("baby birds, an adult elephant, a baby", ["bird", "elephant", "person"]),
        ("a passenger train, a passenger jet, a passenger", ["train", "airplane", "person"]),
        ("train tracks near home plate", []),
        ("a plate of pizza", ["pizza"]),
        ("a toilet seat", ["toilet"]),
        ("the seat of the toilet", ["toilet"]),
        ("the toilet seat and a seat", ["toilet"]),
        ("a seat", ["chair"]),
        ("knives and knife", ["knife", "knife"]),
        ("canoes, a canoe", ["boat"]),  # canoes becomes cano
        ("potted plants, a plant", ["potted plant"]),
        ("skis, a ski", ["skis", "skis"]),
        ("scissors", ["scissors"]),
        ("vases, dog's cat's", ["vase", "dog", "cat"]),
        ("a fire hydrant, a hydrant", ["fire hydrant", "fire hydrant"]),
        ("mother-in-law, mothers-in-law", []),
        ("", []),
    ],
)
def test_pattern_words(caption, objects):
    assert named(caption) == objects


def test_a_double_word_starts_anew_after_each_merge():
    # "hot dog" takes the dog, so that "dog bowl" is no pair; "baby adult dog": the first word stays
    assert [tuple(m) for m in chair.mentions("a baby adult dog")] == [("baby", "person", 1), ("dog", "dog", 2)]


def test_positions_count_tokens_before_merging():
    text = "A traffic light, two hot dogs and a dog."
    # a traffic light , two hot dogs and a dog .
    # 0 1       2     3 4   5   6    7   8 9   10
    assert [tuple(m) for m in chair.mentions(text)] == [
        ("traffic light", "traffic light", 1),
        ("hot dog", "hot dog", 5),
        ("dog", "dog", 9),
    ]


def test_positions_slip_behind_a_dropped_seat():
    # a seat and a toilet and a dog: without the seat the third word is read off the list that still has it
    slipped = [tuple(m) for m in chair.mentions("a seat and a toilet and a dog")]
    assert slipped == [("toilet", "toilet", 3), ("dog", "dog", 6)]  # really 4 and 7
    assert [m.position for m in chair.mentions("a seat and a toilet and a dog", "fixed")] == [4, 7]


CAPTIONS = [
    {"image_id": 1, "caption": "A dog and a cat and a dog."},  # cat is invented: 1 of 3
    {"image_id": 2, "caption": "A hot dog on a table."},  # nothing is: 2
    {"image_id": 2, "caption": "Two cats, a cat, sky."},  # 2 of 2
    {"image_id": 3, "caption": "Sky."},
]
TRUTH = {"1": ["dog", "person"], "2": ["hot dog", "dining table"], "3": []}


def test_numbers_by_hand():
    result = chair.score(CAPTIONS, TRUTH)
    s = result.summary
    assert s["chair_s"] == 2 / 4
    assert s["chair_i"] == 3 / 7
    assert s["recall"] == 3 / 6  # image 2 counts twice: (1 + 2 + 0 + 0) of (2 + 2 + 2 + 0)
    assert (s["n_captions"], s["n_mentions"], s["n_hallucinated"], s["n_hallucinated_captions"]) == (4, 7, 3, 2)
    # tokens: 9 ; "a, hot dog, on, a, table, ." = 6 ; "two cats , a cat , sky ." = 8 ; 2
    assert [c["n_words"] for c in result.captions] == [9, 6, 8, 2]
    assert s["len"] == 0.01 * 25 / 4
    assert s["words_per_caption"] == 25 / 4
    assert s["precision"] == 3 / 5  # distinct: dog, hot dog, table of dog cat | hot dog table | cat
    assert s["chair_i_unique"] == 2 / 5
    assert s["f1"] == pytest.approx(2 * 0.6 * 0.5 / 1.1, abs=0)
    assert s["repeated_mentions"] == 2 / 7
    assert s["objects_per_caption"] == 5 / 4
    assert s["mentions_per_caption"] == 7 / 4
    assert (s["flavour"], s["warnings"]) == ("pattern", [])


def test_caption_records_by_hand():
    first, second, third, fourth = chair.score(CAPTIONS, TRUTH).captions
    assert first["objects"] == ["dog", "cat", "dog"]
    assert first["hallucinated"] == [["cat", "cat"]]
    assert first["indices"] == [4]
    assert (first["recall"], first["chair_i"], first["chair_s"]) == (0.5, 1 / 3, 1)
    assert (second["hallucinated"], second["recall"], second["chair_i"]) == ([], 1.0, 0.0)
    assert third["chair_i"] == 1.0
    assert (fourth["objects"], fourth["recall"], fourth["chair_i"]) == ([], 0.0, 0.0)


def test_repeated_four_grams():
    caption = {"image_id": 1, "caption": "a b c d a b c d"}  # abcd bcda cdab dabc abcd: one of five again
    assert chair.score([caption], {1: []}).summary["repetition_rate"] == 1 / 5
    assert chair.score([{"image_id": 1, "caption": "a b c"}], {1: []}).summary["repetition_rate"] == 0.0


def test_distinct_words_and_pairs():
    found = chair.score([{"image_id": 1, "caption": "a b a b"}, {"image_id": 1, "caption": "c"}], {1: []}).summary
    assert found["distinct_1"] == 3 / 5  # a b c of five
    assert found["distinct_2"] == pytest.approx(2 / 3)  # ab ba ab; one word has no pair
    assert chair.score([], {}).summary["distinct_2"] is None


def test_undefined_ratios_are_none_with_a_sentence():
    empty = chair.score([], {}).summary
    assert {name for name in ("chair_s", "chair_i", "recall", "len") if empty[name] is None} == {
        *("chair_s", "chair_i", "recall", "len")
    }
    silent = chair.score([{"image_id": 1, "caption": "Sky."}], {1: []}).summary
    assert (silent["chair_s"], silent["chair_i"], silent["recall"]) == (0.0, None, None)
    assert any("chair_i is undefined: no caption names an object" in w for w in silent["warnings"])
    json.dumps([empty, silent], allow_nan=False)


def test_unknown_image_counts_as_empty_with_a_warning():
    captions = [{"image_id": 9, "caption": "A dog."}]
    result = chair.score(captions, {})
    assert result.summary["chair_s"] == 1.0
    assert "1 images are not in the ground truth" in result.summary["warnings"][-1]
    with pytest.raises(ValueError, match="image 9 is not in the ground truth"):
        chair.score(captions, {}, "fixed")


def test_image_ids_as_numbers_or_strings():
    for truth in ({7: ["dog"]}, {"7": ["dog"]}):
        for image in (7, "7"):
            assert chair.score([{"image_id": image, "caption": "a dog"}], truth).summary["chair_i"] == 0.0


def test_bad_records_and_flavours():
    with pytest.raises(ValueError, match="lacks image_id or a caption"):
        chair.score([{"image_id": 1}], {1: []})
    with pytest.raises(ValueError, match="no flavour 'loose'"):
        chair.score([{"image_id": 1, "caption": "a"}], {1: []}, "loose")


@pytest.mark.parametrize(
    ("caption", "objects"),
    [
        ("The bus and a minibus", ["bus", "bus"]),
        ("ties, collies, canoes, vases", ["tie", "dog", "boat", "vase"]),
        ("a motor bike, a cheesecake, an iPhone", ["motorcycle", "cake", "cell phone"]),
        ("tennis racquets", ["tennis racket"]),
        ("wine glasses", ["wine glass"]),
        ("men and women and people", ["person", "person", "person"]),
        ("an orange cat", ["cat"]),
        ("the cat is orange", ["cat"]),
        ("an orange and two oranges", ["orange", "orange"]),
        ("a remote beach, a remote control, a remote.", ["remote", "remote"]),
        ("skis and a ski", ["skis", "skis"]),
    ],
)
def test_fixed_words(caption, objects):
    assert named(caption, "fixed") == objects


# --- ground truth

INSTANCES = {
    "images": [{"id": 1}, {"id": 2}, {"id": 3}],
    "categories": [{"id": 18, "name": "dog"}, {"id": 6, "name": "bus"}],
    "annotations": [
        {"image_id": 1, "category_id": 18},
        {"image_id": 1, "category_id": 6},
        {"image_id": 1, "category_id": 18},
    ],
}
REFERENCES = {"annotations": [{"image_id": 1, "caption": "A man"}, {"image_id": 2, "caption": "Two dogs beside a bus"}]}


def test_ground_truth_is_boxes_and_words():
    assert chair.ground_truth(INSTANCES, REFERENCES) == {1: ["dog", "bus", "person"], 2: ["dog"], 3: []}
    assert chair.ground_truth(INSTANCES, REFERENCES, "fixed")[2] == ["dog", "bus"]
    assert chair.ground_truth(INSTANCES, None) == {1: ["dog", "bus"], 2: [], 3: []}


def test_ground_truth_refuses_other_categories():
    with pytest.raises(ValueError, match="'dragon' is not one of COCO's 80"):
        chair.ground_truth({**INSTANCES, "categories": [{"id": 18, "name": "dragon"}]}, None)


def write(path, value):
    path.write_text(json.dumps(value), "utf-8")
    return path


@pytest.fixture
def captions_file(tmp_path):
    rows = [{"image_id": 1, "caption": "A dog, a man, buses."}, {"image_id": 2, "caption": "A cat."}]
    path = tmp_path / "captions.jsonl"
    json_lines.write(path, rows)
    return path


def test_score_from_a_coco_folder(tmp_path, captions_file):
    folder = tmp_path / "coco/annotations"
    folder.mkdir(parents=True)
    write(folder / "instances_val2014.json", INSTANCES)
    write(folder / "captions_val2014.json", REFERENCES)
    write(folder / "instances_val2017.json", {**INSTANCES, "annotations": [{"image_id": 2, "category_id": 6}]})
    out = tmp_path / "per_caption.jsonl"
    summary = scored.score_chair(captions_file, coco_dir=tmp_path / "coco", flavour="pattern", per_caption_out=out)
    assert (summary["chair_s"], summary["n_mentions"], summary["warnings"]) == (0.5, 4, [])
    assert summary["recall"] == 3 / 4  # the 2017 file is left alone
    rows = json_lines.read(out)
    assert [row["image_id"] for row in rows] == [1, 2]
    assert rows[1]["hallucinated"] == [["cat", "cat"]]
    assert {"image_id", "objects", "hallucinated", "indices", "n_words", "recall", "chair_i"} <= set(rows[0])


def test_a_folder_without_references_says_so(tmp_path, captions_file):
    write(tmp_path / "instances.json", INSTANCES)
    summary = scored.score_chair(captions_file, coco_dir=tmp_path, flavour="pattern")
    assert "annotated boxes alone" in summary["warnings"][-1]
    with pytest.raises(ValueError, match=r"has no instances\*\.json"):
        scored.score_chair(captions_file, coco_dir=tmp_path / "nowhere", flavour="pattern")


def test_score_from_json_with_one_table_or_one_a_flavour(tmp_path, captions_file):
    plain = write(tmp_path / "plain.json", {"1": ["dog"], "2": ["cat"]})
    assert scored.score_chair(captions_file, plain, flavour="pattern")["n_hallucinated"] == 2
    both = write(tmp_path / "both.json", {"pattern": {"1": [], "2": []}, "fixed": {"1": ["dog"], "2": ["cat"]}})
    assert scored.score_chair(captions_file, both, flavour="pattern")["n_hallucinated"] == 4
    assert scored.score_chair(captions_file, both, flavour="fixed")["n_hallucinated"] == 2
    with pytest.raises(ValueError, match="no ground truth for wordnet words"):
        scored.score_chair(captions_file, both, flavour="wordnet")
    odd = write(tmp_path / "odd.json", {"1": ["sofa"], "2": []})
    assert "sofa" in scored.score_chair(captions_file, odd, flavour="pattern")["warnings"][-1]
    with pytest.raises(ValueError, match="2 sources of the ground truth"):
        scored.score_chair(captions_file, plain, coco_dir=tmp_path)


def test_captions_as_the_original_evaluator_has_them(tmp_path):
    rows = {"1": {"image_id": 1, "caption": "A dog."}, "2": {"image_id": 2, "caption": "A cat."}}
    path = write(tmp_path / "results.json", {"overall": {}, "imgToEval": rows})
    assert scored.read_captions(path) == list(rows.values())
    assert scored.read_captions(write(tmp_path / "list.json", list(rows.values()))) == list(rows.values())


# --- chair.pkl


class CHAIR:
    """Pickled as the public evaluator is: a class of `__main__` with a defaultdict of sets."""


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_chair_pickle_is_read_without_its_class(tmp_path, captions_file, monkeypatch, protocol):
    monkeypatch.setattr(CHAIR, "__module__", "__main__")
    monkeypatch.setattr("__main__.CHAIR", CHAIR, raising=False)
    evaluator = CHAIR()
    evaluator.imid_to_objects = defaultdict(list, {1: {"dog", "person", "bus"}, 2: {"cat"}})
    evaluator.mscoco_objects = ["dog"]
    path = tmp_path / "chair.pkl"
    path.write_bytes(pickle.dumps(evaluator, protocol))
    monkeypatch.delattr("__main__.CHAIR")
    assert safe_pickle.chair_objects(path) == {1: ["bus", "dog", "person"], 2: ["cat"]}
    assert scored.score_chair(captions_file, chair_pkl=path, flavour="pattern")["chair_s"] == 0.0


class Attack:
    def __reduce__(self):
        return print, ("this must never run",)


@pytest.mark.parametrize("payload", [Attack(), {"imid_to_objects": Attack()}])
def test_a_pickle_that_would_run_something_is_refused(tmp_path, capsys, payload):
    path = tmp_path / "evil.pkl"
    path.write_bytes(pickle.dumps(payload))
    with pytest.raises(ValueError, match=r"names builtins\.print, which is not loaded"):
        safe_pickle.chair_objects(path)
    assert capsys.readouterr().out == ""


def test_other_pickles_are_refused(tmp_path):
    (tmp_path / "list.pkl").write_bytes(pickle.dumps([1]))
    with pytest.raises(ValueError, match="no imid_to_objects"):
        safe_pickle.chair_objects(tmp_path / "list.pkl")
    (tmp_path / "broken.pkl").write_bytes(b"\x80\x04junk")
    with pytest.raises(ValueError, match="no readable pickle"):
        safe_pickle.chair_objects(tmp_path / "broken.pkl")
    (tmp_path / "reduce.pkl").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(ValueError, match=r"names os\.system"):
        safe_pickle.chair_objects(tmp_path / "reduce.pkl")


# --- public captions

PUBLISHED = {  # per cent: CHAIR_s, CHAIR_i, Recall of pattern words against pattern ground truth
    "llava-1.5_greedy": (45.0, 12.8, 79.8),
    "llava-1.5_beam5": (49.0, 13.9, 79.6),
    "llava-1.5_ours": (44.8, 12.8, 78.9),
    "instructblip_greedy": (57.2, 22.7, 68.9),
    "minigpt4_greedy": (29.0, 9.2, 62.3),
}


@needs_golden
@pytest.mark.parametrize("name", PUBLISHED)
def test_golden_captions_give_the_published_percentages(name):
    summary = scored.score_chair(GOLDEN / f"captions/opera_{name}.jsonl", GOLDEN / "gt_objects.json", flavour="pattern")
    assert tuple(round(100 * summary[key], 1) for key in ("chair_s", "chair_i", "recall")) == PUBLISHED[name]
    assert (summary["n_captions"], summary["warnings"]) == (500, [])


@needs_golden
def test_golden_word_forms():
    from grounddecode.evaluate.language.singular import singular

    forms = json.loads((GOLDEN / "pattern_forms.json").read_text())["forms"]
    assert {token: singular(token) for tokens in forms.values() for token in tokens} == {
        token: base for base, tokens in forms.items() for token in tokens
    }
    # and no other token of the public captions becomes one of those words
    known = {token for tokens in forms.values() for token in tokens}
    from grounddecode.evaluate.language.tokens import words

    for path in (GOLDEN / "captions").iterdir():
        for record in json_lines.read(path):
            assert not [t for t in words(record["caption"].lower()) if singular(t) in forms and t not in known]
