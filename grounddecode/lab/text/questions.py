"""Questions about a lab scene and the answers that an annotator gives."""

from dataclasses import dataclass

import numpy as np

from grounddecode.lab.captions import (
    ATTRIBUTE,
    DESCRIBE,
    EXISTENCE,
    HOW_MANY,
    LIBERAL,
    NUMBER,
    NUMBERS,
    PLACEMENT,
    PLACES,
    RELATION,
    RELATIONS,
    WHERE,
    WHERE_ALL,
    WHERE_BOTH,
    YES_OR_NO,
    Mention,
    article,
    number_of,
    place,
    plural,
    relation,
    single,
)
from grounddecode.lab.world import CATEGORIES, COUNTABLE, FAVOURITE, Scene, Thing


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
    thing = _thing(scene, rng)
    wrong = [c for c in colours if c != thing.colour]
    if rng.random() < 0.5:
        return Turn("attribute", ATTRIBUTE.format(thing.category, thing.colour), "Yes.")
    favourite = FAVOURITE[thing.category]
    colour = favourite if favourite in wrong and rng.random() < 0.4 else wrong[int(rng.integers(len(wrong)))]
    return Turn("attribute", ATTRIBUTE.format(thing.category, colour), "No.")


def placement(scene: Scene, rng: np.random.Generator) -> Turn:
    """Is the ... on the left of the image? Balanced."""
    thing = _thing(scene, rng)
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
    """Are there two ... in the image? The number is drawn first, then a thing it is true or false of, half and half.

    So neither the number alone nor the thing alone gives the answer. Of a scene whose countable things are all equally
    many, where a thing is is asked instead.
    """
    things = _by_number(scene)
    if len(things) < 2:
        return placement(scene, rng)
    asked, true = int(rng.choice(sorted(things))), bool(rng.random() < 0.5)
    pool = [category for count, own in things.items() if (count == asked) == true for category in own]
    question = _number(asked, pool[int(rng.integers(len(pool)))])
    return Turn("number", question, "Yes." if true else "No.")


def _by_number(scene: Scene) -> dict[int, list[str]]:
    """The countable categories of a scene by how many there are."""
    things: dict[int, list[str]] = {}
    for category in scene.categories:
        if category in COUNTABLE:
            things.setdefault(number_of(scene, category), []).append(category)
    return things


def _number(count: int, category: str) -> str:
    verb, noun = ("Are", plural(category)) if count > 1 else ("Is", category)
    return NUMBER.format(verb, NUMBERS[count - 1], noun)


def how_many(scene: Scene, rng: np.random.Generator) -> Turn:
    """How many ... are there? The answer is a word; of the numbers in a scene each is as likely to be asked about."""
    things = _by_number(scene)
    if not things:
        return placement(scene, rng)
    count = int(rng.choice(sorted(things)))
    category = things[count][int(rng.integers(len(things[count])))]
    return Turn("count", HOW_MANY.format(plural(category)), f"{NUMBERS[count - 1].capitalize()}.")


def described(scene: Scene, rng: np.random.Generator) -> Turn:
    """Describe the ...: its colour and place in words."""
    thing = _thing(scene, rng)
    answer = f"{article(thing.colour)} {thing.category} {place(thing)}."
    return Turn("description", DESCRIBE.format(thing.category), _begun(answer))


def whereabouts(scene: Scene, rng: np.random.Generator) -> Turn:
    """Where is the ...? The answer is a place."""
    thing = _thing(scene, rng)
    return Turn("whereabouts", WHERE.format(thing.category), _begun(f"{place(thing)}."))


def related(scene: Scene, rng: np.random.Generator) -> Turn:
    """Where are the ... and the ...? The answer is a relation; of a scene without two single things, a place."""
    things = single(scene)
    if len(things) < 2:
        return whereabouts(scene, rng)
    first, second = (things[i] for i in rng.choice(len(things), 2, replace=False))
    answer = f"The {first.category} is {relation(first, second)} the {second.category}."
    return Turn("relative", WHERE_BOTH.format(first.category, second.category), answer)


def pointed(scene: Scene, rng: np.random.Generator) -> Turn:
    """Where are the ...? "One" and a place of each, from left to right; of a scene without two of a kind, a number."""
    several = [category for count, own in sorted(_by_number(scene).items()) if count > 1 for category in own]
    if not several:
        return how_many(scene, rng)
    category = several[int(rng.integers(len(several)))]
    things = sorted((t for t in scene.objects if t.category == category), key=lambda t: t.centre)
    *most, last = [f"one {place(thing)}" for thing in things]
    return Turn("pointing", WHERE_ALL.format(plural(category)), _begun(f"{', '.join(most)} and {last}."))


def _thing(scene: Scene, rng: np.random.Generator) -> Thing:
    things = single(scene) or scene.objects
    return things[int(rng.integers(len(things)))]


def _begun(text: str) -> str:
    return text[0].upper() + text[1:]
