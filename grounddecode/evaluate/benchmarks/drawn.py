"""The lab's versions of the benchmarks: official rules on drawn scenes, of the evaluation split by default."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Any

from grounddecode.evaluate.benchmarks.base import QUESTION_SEED, Wanted
from grounddecode.evaluate.sample import LAB, Sample, drawn
from grounddecode.evaluate.scoring import chair as chair_scorer
from grounddecode.evaluate.scoring.pope import build
from grounddecode.evaluate.scoring.pope_questions import STRATEGIES, question_text
from grounddecode.registry import nearest

if TYPE_CHECKING:
    from grounddecode.evaluate.scoring.amber import AmberData
    from grounddecode.lab.world import Scene

IMAGES = 500  # as many as papers take for CHAIR and POPE
CAPTION_PROMPT, AMBER_PROMPT = "Describe this image in detail.", "Describe this image."
CAPTION_TOKENS, ANSWER_TOKENS = 60, 8
EXPECTED = 0.35  # an absent object is an expected invention where its presence in such a scene is at least this


def chair(wanted: Wanted) -> Iterator[Sample]:
    """Long captions of the first scenes of the split."""
    from grounddecode.lab.dataset import annotations

    scenes = _scenes(wanted, min(wanted.limit or IMAGES, IMAGES))
    truth = chair_scorer.ground_truth(*annotations(scenes), wanted.flavour)
    tokens = wanted.max_new_tokens or CAPTION_TOKENS
    for scene in scenes:
        facts = {"truth": truth[scene.seed]}
        yield Sample(f"chair/{scene.seed}", "chair", "", scene.seed, _image(scene.seed), CAPTION_PROMPT, tokens, facts)


def pope(wanted: Wanted) -> Iterator[Sample]:
    """Questions about the scenes with three objects or more among the first scenes of the split."""
    objects = {scene.seed: list(dict.fromkeys(scene.categories)) for scene in _scenes(wanted)}
    for strategy in STRATEGIES:
        for asked in build(objects, strategy, QUESTION_SEED)[: wanted.limit]:
            seed = asked["image"]
            name = f"pope-{strategy}/{asked['question_id']}"
            facts = {"label": asked["label"], "object": asked["object"]}
            yield Sample(name, "pope", strategy, seed, _image(seed), asked["text"], ANSWER_TOKENS, facts)


def amber(wanted: Wanted) -> Iterator[Sample]:
    """AMBER's two tasks: descriptions, and questions about existence (all no), colours and relations."""
    scenes = _scenes(wanted)
    tokens = wanted.max_new_tokens or CAPTION_TOKENS
    for scene in scenes[: wanted.limit]:
        name, image = f"amber-generative/{scene.seed}", _image(scene.seed)
        facts = {"type": "generative", "truth": list(scene.categories), "hallu": _expected(scene)}
        yield Sample(name, "amber", "generative", scene.seed, image, AMBER_PROMPT, tokens, facts)
    asked = ((scene, kind, text, truth) for scene in scenes for kind, text, truth in _questions(scene))
    for number, (scene, kind, text, truth) in enumerate(asked, 1):
        if wanted.limit is not None and number > wanted.limit:
            return
        name, image = f"amber-discriminative/{number}", _image(scene.seed)
        facts = {"type": kind, "truth": truth}
        yield Sample(name, "amber", "discriminative", scene.seed, image, text, ANSWER_TOKENS, facts)


@cache
def amber_data() -> AmberData:
    """The lab's own closed list of words. AMBER compares single words, so the last one of a name stands for it."""
    from grounddecode.evaluate.scoring.amber import AmberData
    from grounddecode.lab.captions import NOUNS, PEOPLE
    from grounddecode.lab.world import CATEGORIES

    relation: dict[str, list[str]] = {name: [] for name in CATEGORIES}
    for name, nouns in {**{name: (name,) for name in CATEGORIES}, **NOUNS, "person": PEOPLE}.items():
        relation[name] += [word for noun in nouns if (word := noun.split()[-1]) != name]
    return AmberData([], relation, frozenset(), {})


def _scenes(wanted: Wanted, count: int = IMAGES) -> list[Scene]:
    from grounddecode.lab.world import SPLITS

    if wanted.split not in SPLITS:
        raise ValueError(nearest(wanted.split, SPLITS, "split of the lab"))
    return [drawn(seed) for seed in SPLITS[wanted.split][:count]]


def _image(seed: int) -> str:
    return f"{LAB}{seed}"


def _expected(scene: Scene) -> list[str]:
    """Absent objects that such a scene usually has: those a model is expected to invent."""
    from grounddecode.lab.world import CATEGORIES, prior

    return [name for name in CATEGORIES if name not in scene.categories and prior(scene.scene, name) >= EXPECTED]


def _questions(scene: Scene) -> Iterator[tuple[str, str, str]]:
    """Type, text and truth of a scene's questions."""
    import numpy as np

    from grounddecode.lab import captions
    from grounddecode.lab.sprites import COLOURS

    for name in _expected(scene)[:2]:
        yield "discriminative-hallucination", question_text(name), "no"
    rng = np.random.default_rng([scene.seed, QUESTION_SEED])
    turns: list[tuple[str, Any]] = [("discriminative-attribute-state", captions.attribute(scene, rng, tuple(COLOURS)))]
    if len(scene.objects) > 1:
        turns.append(("relation", captions.relational(scene, rng)))
    for kind, turn in turns:
        yield kind, turn.question, "yes" if turn.answer == "Yes." else "no"
