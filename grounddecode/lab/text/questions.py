"""Questions about a lab scene and the answers that an annotator gives."""

from dataclasses import dataclass

import numpy as np

from grounddecode.lab.captions import (
    ATTRIBUTE,
    EXISTENCE,
    HOW_MANY,
    LIBERAL,
    NUMBER,
    NUMBERS,
    PLACEMENT,
    PLACES,
    RELATION,
    RELATIONS,
    YES_OR_NO,
    Mention,
    article,
    number_of,
    place,
    plural,
    relation,
    single,
)
from grounddecode.lab.world import CATEGORIES, COUNTABLE, FAVOURITE, Scene


@dataclass(frozen=True)
class Turn:
    """One question and the answer an annotator gave."""

    kind: str
    question: str
    answer: str


def existence(scene: Scene, rng: np.random.Generator, named: list[Mention], mined: float = LIBERAL.mined) -> Turn:
    """Is there a ...? About 55 % yes; part of the positives come from the faulty caption `named`."""
    if rng.random() < 0.55:
        pool = [m.category for m in named] if named and rng.random() < mined else list(scene.categories)
        category, answer = pool[int(rng.integers(len(pool)))], "Yes."
    else:
        absent = [c for c in CATEGORIES if c not in scene.categories]
        category, answer = absent[int(rng.integers(len(absent)))], "No."
    question = EXISTENCE[int(rng.random() < 0.25)].format(article(category) if rng.random() < 0.9 else f"a {category}")
    return Turn("existence", question + (YES_OR_NO if rng.random() < 0.08 else ""), answer)


def attribute(scene: Scene, rng: np.random.Generator, colours: tuple[str, ...]) -> Turn:
    """Is the ... red? Balanced; wrong colours lean to the category's favourite one."""
    things = single(scene) or scene.objects
    thing = things[int(rng.integers(len(things)))]
    wrong = [c for c in colours if c != thing.colour]
    if rng.random() < 0.5:
        return Turn("attribute", ATTRIBUTE.format(thing.category, thing.colour), "Yes.")
    favourite = FAVOURITE[thing.category]
    colour = favourite if favourite in wrong and rng.random() < 0.4 else wrong[int(rng.integers(len(wrong)))]
    return Turn("attribute", ATTRIBUTE.format(thing.category, colour), "No.")


def placement(scene: Scene, rng: np.random.Generator) -> Turn:
    """Is the ... on the left of the image? Balanced."""
    things = single(scene) or scene.objects
    thing = things[int(rng.integers(len(things)))]
    true = place(thing)
    if rng.random() < 0.5:
        return Turn("placement", PLACEMENT.format(thing.category, true), "Yes.")
    wrong = [p for p in PLACES if p != true]
    return Turn("placement", PLACEMENT.format(thing.category, wrong[int(rng.integers(len(wrong)))]), "No.")


def relational(scene: Scene, rng: np.random.Generator) -> Turn:
    """Is the ... to the left of the ...? Balanced: the false question asks for the opposite direction.

    Of a scene in which fewer than two things are the only one of their kind, where a thing is is asked instead.
    """
    things = single(scene)
    if len(things) < 2:
        return placement(scene, rng)
    first, second = (things[i] for i in rng.choice(len(things), 2, replace=False))
    true = relation(first, second)
    if rng.random() < 0.5:
        return Turn("relation", RELATION.format(first.category, true, second.category), "Yes.")
    opposite = RELATIONS[RELATIONS.index(true) ^ 1]
    return Turn("relation", RELATION.format(first.category, opposite, second.category), "No.")


def number(scene: Scene, rng: np.random.Generator) -> Turn:
    """Are there two ... in the image? Balanced; the false number is one more or one less."""
    present = [c for c in scene.categories if c in COUNTABLE]
    if not present:
        return placement(scene, rng)
    category = present[int(rng.integers(len(present)))]
    true = number_of(scene, category)
    if rng.random() < 0.5:
        return Turn("number", _number(true, category), "Yes.")
    near = [n for n in (true - 1, true + 1) if 1 <= n <= len(NUMBERS)]
    return Turn("number", _number(near[int(rng.integers(len(near)))], category), "No.")


def _number(count: int, category: str) -> str:
    verb, noun = ("Are", plural(category)) if count > 1 else ("Is", category)
    return NUMBER.format(verb, NUMBERS[count - 1], noun)


def how_many(scene: Scene, rng: np.random.Generator) -> Turn:
    """How many ... are there? The answer is a word."""
    present = [c for c in scene.categories if c in COUNTABLE]
    if not present:
        return placement(scene, rng)
    category = present[int(rng.integers(len(present)))]
    return Turn("count", HOW_MANY.format(plural(category)), f"{NUMBERS[number_of(scene, category) - 1].capitalize()}.")
