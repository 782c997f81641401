"""Whatever a file holds, its reader gives numbers or one ValueError that says which file it was."""

from __future__ import annotations

import io
import json
import os
import pickle
import tempfile
import time
import warnings
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from grounddecode.calibration import Calibration
from grounddecode.engines.images import open_image
from grounddecode.evaluate.answers import scored
from grounddecode.evaluate.benchmarks.base import Wanted
from grounddecode.evaluate.benchmarks.table import load
from grounddecode.evaluate.data import safe_pickle
from grounddecode.evaluate.data.check import unpack
from grounddecode.evaluate.data.items import Archive
from grounddecode.evaluate.language import similarity
from grounddecode.evaluate.run import recipe
from grounddecode.evaluate.scoring.judged import hallusionbench, mmhal

EXAMPLES = int(os.environ.get("GROUNDDECODE_FUZZ", "30"))  # of each reader
LONGEST = 10.0  # seconds of work that a reader may have with a file of this size
# Fields and values that the readers look for, so that many a file gets past the first look.
NAMES = [
    "id",
    "image_id",
    "caption",
    "question_id",
    "text",
    "label",
    "answer",
    "response",
    "image",
    "query",
    "category",
]
NAMES += ["truth", "hallu", "type", "imgToEval", "annotations", "images", "categories", "category_id", "name", "pairs"]
WORDS = ["yes", "no", "1", "0001", "a dog.", "dog", "generative", "relation", "X_001.png", "\ud800", "", "1\t2\t3\t4"]
PLAIN = st.none() | st.booleans() | st.integers(-2, 12) | st.floats() | st.sampled_from(WORDS) | st.just(10**400)
VALUES = st.recursive(
    PLAIN,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from([*NAMES, "1", "dog"]), inner, max_size=5)
    ),
    max_leaves=12,
)
RECORDS = st.lists(st.fixed_dictionaries({}, optional=dict.fromkeys(NAMES, VALUES)), max_size=4)

GOOD: dict[str, Any] = {
    "questions.json": [
        {"question_id": 1, "image": "X_001.png", "text": "Is there a dog?", "label": "yes", "category": "a"}
    ],
    "answers.json": [{"question_id": 1, "text": "Yes"}],
    "labels/coco_pope_a.json": [{"label": "yes"}],
    "captions.json": [{"image_id": 1, "caption": "A dog."}],
    "truth.json": {"1": ["dog"]},
    "annotations/instances.json": {
        "images": [{"id": 1, "file_name": "X_001.png"}],
        "annotations": [{"image_id": 1, "category_id": 1}],
        "categories": [{"id": 1, "name": "dog"}],
    },
    "annotations/captions.json": {"annotations": [{"image_id": 1, "caption": "A dog."}]},
    "amber/annotations.json": [
        {"type": "generative", "truth": ["dog"], "hallu": []},
        {"type": "relation", "truth": "yes"},
    ],
    "amber/relation.json": {"dog": ["puppy"]},
    "amber/safe_words.txt": "sky",
    "amber/metrics.txt": "chair_num=0.001",
    "amber/query_generative.json": [{"id": 1, "image": "X_001.png", "query": "?"}],
    "amber/query_discriminative.json": [{"id": 2, "image": "X_001.png", "query": "?"}],
    "responses.json": [{"id": 1, "response": "A dog."}, {"id": 2, "response": "Yes"}],
    "mme/count.txt": "a\tq\tyes\tYes\na\tq\tno\tNo\n",
    "table.json": {"pairs": [["dog", "puppy"]]},
    "hallusion.json": [{"category": "VD"}],
    "chair/images.txt": "1",
    "recipe.yaml": "model: lab\nmethods: [greedy, avc]\nlimit: 3\nengine_options: {dtype: float32}\n",
    "mmhal.json": [{"question_type": "other", "image_content": ["dog"], "question": "?", "gt_answer": "a dog"}],
    "r-bench/image-level_filterd.json": [{"question_id": 1, "image": "X_001.png", "text": "?", "label": "yes"}],
    "r-bench/image-level_ids_1.json": [1],
}
ASKED = [{"question_id": 1, "image": "X_001.png", "text": "?", "label": "no"}]
GOOD |= {f"pope/coco_pope_{split}.json": ASKED for split in ("random", "popular", "adversarial")}
GOOD |= {f"repope/coco_repope_{split}.json": ASKED for split in ("random", "popular", "adversarial")}
GOOD |= {f"dash-b/dash_benchmark_{kind}.json": {"coco": {"dog": ["X_001.png"]}} for kind in ("neg", "pos")}
GOOD["calibration.json"] = {"x@1": asdict(Calibration(checkpoint="x", sink_dims=(1, 2), head_sensitivity=((0.5,),)))}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("fuzz")
    for target in (
        root / "amber" / "image",
        root / "images",
        *(root / "dash-b" / k / "coco" / "dog" for k in ("neg", "pos")),
    ):
        target.mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(target / "X_001.png")
    for name, value in GOOD.items():
        restore(root, name, value)
    return root


def restore(root: Path, name: str, value: Any) -> None:
    (root / name).parent.mkdir(exist_ok=True)
    (root / name).write_text(value if isinstance(value, str) else json.dumps(value))


def pope(root: Path) -> Any:
    for rule in ("official", "llava", "vcd", "lmms-eval"):
        scored.score_pope(root / "questions.json", root / "answers.json", rule)


def chair(**source: str) -> Callable[[Path], Any]:
    def read(root: Path) -> Any:
        places: Any = {name: root / place for name, place in source.items()}
        scored.score_chair(root / "captions.json", flavour="pattern", drop_unfinished=True, **places)

    return read


def amber(root: Path) -> Any:
    scored.score_amber(root / "amber", root / "responses.json", "a", f"table:{root / 'table.json'}", tagger="rules")


def bench(name: str) -> Callable[[Path], Any]:
    return lambda root: load([name], Wanted(root=root))


def fuzzed(cases: int) -> settings:
    """So many cases, the same ones each time."""
    every = list(HealthCheck)
    return settings(max_examples=cases, deadline=None, suppress_health_check=every, database=None, derandomize=True)


READERS: list[tuple[str, Callable[[Path], Any]]] = [
    *((name, pope) for name in ("questions.json", "answers.json")),
    *(
        (name, lambda root: scored.score_pope(root / "questions.json", root / "answers.json", labels=root / "labels"))
        for name in ("questions.json", "answers.json", "labels/coco_pope_a.json")
    ),
    *((name, chair(ground_truth_path="truth.json")) for name in ("captions.json", "truth.json")),
    *((f"annotations/{name}.json", chair(coco_dir="annotations")) for name in ("instances", "captions")),
    *((f"amber/{name}", amber) for name in ("annotations.json", "relation.json", "safe_words.txt", "metrics.txt")),
    *((name, amber) for name in ("responses.json", "table.json")),
    ("mme/count.txt", lambda root: scored.score_mme(root / "mme", ["count"])),
    ("calibration.json", lambda root: Calibration.load(root / "calibration.json")),
    ("recipe.yaml", lambda root: recipe.read(root / "recipe.yaml")),
    ("mmhal.json", lambda root: mmhal.read(root / "mmhal.json")),
    ("repope/coco_repope_random.json", bench("repope")),
    ("dash-b/dash_benchmark_neg.json", bench("dash-b")),
    *((f"r-bench/image-level_{name}.json", bench("r-bench")) for name in ("filterd", "ids_1")),
    ("hallusion.json", lambda root: hallusionbench.read_hallusionbench(root / "hallusion.json")),
    ("answers.json", lambda root: hallusionbench.read_answers(root / "answers.json")),
    ("table.json", lambda root: similarity.similarity(f"table:{root / 'table.json'}")),
    *((f"annotations/{name}.json", bench("chair")) for name in ("instances", "captions")),
    ("chair/images.txt", bench("chair")),
    ("pope/coco_pope_popular.json", bench("pope")),
    *((f"amber/{name}", bench("amber")) for name in ("annotations.json", "query_generative.json")),
]


@pytest.mark.parametrize(("name", "read"), READERS, ids=[f"{at}-{name}" for at, (name, _) in enumerate(READERS)])
def test_readers_end_in_numbers_or_one_sentence(name: str, read: Callable[[Path], Any], folder: Path) -> None:
    good = (folder / name).read_bytes()

    @fuzzed(EXAMPLES)
    @given(st.data())
    def attempt(data: st.DataObject) -> None:
        content = data.draw(
            st.binary(max_size=40)
            | VALUES.map(lambda value: json.dumps(value).encode())
            | RECORDS.map(lambda rows: json.dumps(rows).encode())
            | st.tuples(st.integers(0, len(good)), st.binary(max_size=3)).map(
                lambda cut: good[: cut[0]] + cut[1] + good[cut[0] + len(cut[1]) :]
            )
        )
        (folder / name).write_bytes(content)
        begin = time.thread_time()
        try:
            read(folder)
        except ValueError as error:
            told = str(error)
            assert str(folder) in told, (content, told)
            assert "\n" not in told
            told.encode()  # it can be printed
        finally:
            (folder / name).write_bytes(good)
        assert time.thread_time() - begin < LONGEST

    read(folder) if name != "hallusion.json" else None  # what is good is read
    attempt()


OBJECTS = st.recursive(
    st.none() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner, inner) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=8,
)


@fuzzed(max(200, EXAMPLES))
@given(
    st.binary(max_size=60) | st.tuples(OBJECTS, st.integers(0, 5)).map(lambda given: pickle.dumps(*given)), st.data()
)
def test_pickles_end_in_one_sentence(content: bytes, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(content)))
    broken = content[:place] + data.draw(st.binary(max_size=2)) + content[place:]
    for one in (content, broken):
        with suppress(ValueError):
            safe_pickle.load(io.BytesIO(one))


def pictures() -> list[bytes]:
    """A small picture in each of several formats."""
    found = []
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"):
        file = io.BytesIO()
        Image.new("RGB", (6, 5), (200, 10, 30)).save(file, kind)
        found.append(file.getvalue())
    return found


@fuzzed(max(200, EXAMPLES))
@given(st.sampled_from(pictures()), st.integers(0, 400), st.binary(max_size=6))
def test_pictures_end_in_pixels_or_one_sentence(good: bytes, place: int, other: bytes) -> None:
    with tempfile.NamedTemporaryFile(suffix=".png") as file:
        file.write(good[:place] + other + good[place + len(other) :])
        file.flush()
        try:
            told, mode = "", open_image(Path(file.name), max_pixels=10_000).mode
        except ValueError as error:
            told, mode = str(error), ""
        assert mode == "RGB" or file.name in told
        assert "\n" not in told


MEMBERS = st.sampled_from(
    [
        "data/a.txt",
        "data/../../evil.txt",
        "/evil.txt",
        "data/..",
        "data/",
        "../evil.txt",
        "data/sub/b",
        "C:\\evil.txt",
        "data/a\\b",
    ]
)


@fuzzed(max(200, EXAMPLES))
@given(st.lists(st.tuples(MEMBERS, st.binary(max_size=20)), max_size=4), st.integers(0, 600), st.binary(max_size=4))
@example([("data/a.txt", b""), ("data/a\\b", b"")], 209, b"\x01")  # a member that begins where no file is
def test_archives_stay_in_their_folder(members: list[tuple[str, bytes]], place: int, other: bytes) -> None:
    file = io.BytesIO()
    with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    whole = file.getvalue()
    with tempfile.TemporaryDirectory() as folder:
        inside = Path(folder) / "deep" / "inside"
        inside.mkdir(parents=True)
        (Path(folder) / "it.zip").write_bytes(whole[:place] + other + whole[place + len(other) :])
        with suppress(ValueError):
            unpack(Path(folder) / "it.zip", inside, [Archive(("",))])
        outside = [path for path in Path(folder).rglob("*") if path.is_file() and inside not in path.parents]
        assert [path.name for path in outside] == ["it.zip"]
