"""What annotators write about a lab scene: long and short captions with human faults."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from grounddecode.lab.world import CATEGORIES, COUNTABLE, FAVOURITE, PAIRS, SIDE, Scene, Thing, weights

LONG_PROMPTS = (
    "Describe this image in detail.",
    "Please describe this image in detail.",
    "Describe this image.",
)
SHORT_PROMPT = "Describe this image briefly."
# Every word is in the COCO CHAIR synonym table under its category.
NOUNS: dict[str, tuple[str, ...]] = {
    "bicycle": ("bicycle", "bike"),
    "dog": ("dog", "puppy"),
    "refrigerator": ("refrigerator", "fridge"),
    "laptop": ("laptop", "computer"),
    "cell phone": ("cell phone", "phone"),
    "oven": ("oven", "stove"),
}
PEOPLE = ("man", "woman", "person")
INTROS = ("This is a photo of {}.", "The image shows {}.", "The photo was taken in {}.")
SINGLES = ("There is {np}{pos}.", "{Np} is{pos}.", "{Pos} there is {np}.", "I can see {np}{pos}.")
DOUBLES = ("There is {np} and {np2}.", "The image also shows {np} and {np2}.")
PLACES = ("on the left", "on the right", "at the top", "at the bottom", "in the middle")
RELATIONS = ("to the left of", "to the right of", "above", "below", "next to")
EXISTENCE = ("Is there {} in the image?", "Is there {} in this image?")
ATTRIBUTE = "Is the {} {} in this image?"
PLACEMENT = "Is the {} {} of the image?"
RELATION = "Is the {} {} the {}?"
YES_OR_NO = " Please answer yes or no."
NUMBERS = ("one", "two", "three", "four")
NUMBER = "{} there {} {} in the image?"
HOW_MANY = "How many {} are there in the image?"
DESCRIBE, WHERE, WHERE_BOTH = "Describe the {}.", "Where is the {}?", "Where are the {} and the {}?"
WHERE_ALL = "Where are the {}?"
_FAINT, _SMALL = 45.0, 90.0


@dataclass(frozen=True)
class Annotator:
    """Habits of whoever wrote the training texts.

    `pad` is the chance to add a guess while a caption looks short; `mined` the share of questions with the answer yes
    that are made from such a caption, guesses included, and not from the objects themselves.
    """

    pad: float
    mined: float


CLEAN = Annotator(0.0, 0.0)
CAREFUL = Annotator(0.65, 0.45)
LIBERAL = Annotator(0.9, 0.6)


@dataclass(frozen=True)
class Mention:
    """One object named in a caption, or several of a kind; `thing` is None when it is not in the image."""

    category: str
    thing: Thing | None
    count: int = 1


def article(noun: str) -> str:
    """`a` or `an` and the noun."""
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def plural(category: str) -> str:
    """Several of a category that can be counted; all of those are regular."""
    return f"{category}s"


@cache
def _names() -> tuple[re.Pattern[str], dict[str, str]]:
    table = {c: c for c in CATEGORIES} | {w: c for c, words in NOUNS.items() for w in words}
    table |= dict.fromkeys(PEOPLE, "person") | {plural(c): c for c in sorted(COUNTABLE)}
    return re.compile(rf"\b({'|'.join(sorted(table, key=len, reverse=True))})\b"), table


def named(text: str) -> list[str]:
    """Categories that a lab caption names, in order, repeats included."""
    pattern, table = _names()
    return [table[word] for word in pattern.findall(text)]


def mentions(scene: Scene, rng: np.random.Generator, pad: float = LIBERAL.pad) -> list[Mention]:
    """Objects an annotator names, most salient first.

    Faint objects are often left out. With `pad` > 0 the annotator also guesses: a faint object may be taken for another
    one that suits the scene, and while fewer objects are named than a target of 4 to 7, with probability `pad` one that
    suits the scene but is not there is added, mostly at the end. `pad=0` is the clean annotator.
    """
    noisy = sorted(scene.objects, key=lambda t: -np.log(t.salience + 1) - rng.normal(0, 0.5))
    named: list[Mention] = []
    for thing in first_of_each(noisy):
        faint = thing.salience < _FAINT
        if rng.random() < (0.32 if faint else 0.12 if thing.salience < _SMALL else 0.02):
            continue
        mistaken = faint and pad > 0 and rng.random() < 0.12
        seen = Mention(thing.category, thing, number_of(scene, thing.category))
        named.append(_guess(scene, named, rng) if mistaken else seen)
    target = int(rng.integers(4, 8))
    while len(named) < target and rng.random() < pad:
        guess = _guess(scene, named, rng)
        named.insert(len(named) if rng.random() < 0.7 else int(rng.integers(len(named) // 2, len(named) + 1)), guess)
    return named


def first_of_each(things: Sequence[Thing]) -> list[Thing]:
    """The first thing of every category, in order."""
    first: dict[str, Thing] = {}
    for thing in things:
        first.setdefault(thing.category, thing)
    return list(first.values())


def single(scene: Scene) -> list[Thing]:
    """Things that are the only one of their category, of which one can ask where it is or how it looks."""
    return [t for t in scene.objects if number_of(scene, t.category) == 1]


def number_of(scene: Scene, category: str) -> int:
    """How many objects of a category are in a scene."""
    return sum(thing.category == category for thing in scene.objects)


def _guess(scene: Scene, named: list[Mention], rng: np.random.Generator) -> Mention:
    """An absent object, likely in this scene and beside what is already named."""
    said = [m.category for m in named]
    odds = weights(scene.scene, [*scene.categories, *said]) ** 1.5
    for first, second in PAIRS:
        if first in said or first in scene.categories:
            odds[CATEGORIES.index(second)] *= 2.5
    return Mention(CATEGORIES[int(rng.choice(len(CATEGORIES), p=odds / odds.sum()))], None)


def long_caption(scene: Scene, rng: np.random.Generator, pad: float = LIBERAL.pad) -> tuple[str, list[Mention]]:
    """A caption of several sentences and what it names, in order."""
    named = mentions(scene, rng, pad)
    return write(scene, named, rng), named


def write(scene: Scene, named: list[Mention], rng: np.random.Generator) -> str:
    """Sentences that name the given objects in order."""
    sentences = [str(rng.choice(INTROS)).format(article(scene.scene))]
    index = 0
    while index < len(named):
        pair = index + 1 < len(named) and rng.random() < 0.3
        if pair and named[index].count == named[index + 1].count == 1:
            sentences.append(_pair_sentence(named[index], named[index + 1], rng))
            index += 2
        else:
            sentences.append(_sentence(named[index], rng))
            index += 1
    return " ".join(sentences)


def caption_pair(scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
    """The same caption twice: of what is there, and with what is not in the place of the last object it names."""
    named = mentions(scene, rng, pad=0) or [Mention(scene.objects[0].category, scene.objects[0])]
    invented, seed = [*named[:-1], _guess(scene, named, rng)], int(rng.integers(2**31))
    true, false = (write(scene, said, np.random.default_rng(seed)) for said in (named, invented))
    return true, false


def short_caption(scene: Scene, rng: np.random.Generator) -> str:
    """One sentence with the two or three most salient objects."""
    noisy = sorted(scene.objects, key=lambda t: -np.log(t.salience + 1) - rng.normal(0, 0.3))
    chosen = first_of_each(noisy)[: int(rng.integers(2, 4))]
    phrases = [_phrase(Mention(t.category, t, number_of(scene, t.category)), rng) for t in chosen]
    listed = f"{', '.join(phrases[:-1])} and {phrases[-1]}" if len(phrases) > 1 else phrases[0]
    return f"{article(scene.scene).capitalize()} with {listed}."


def noun(mention: Mention, rng: np.random.Generator) -> str:
    """A word for the object, now and then a synonym; a drawn man is a man or a person."""
    if mention.category == "person":
        drawn = mention.thing.drawing if mention.thing else PEOPLE[int(rng.integers(2))]
        return "person" if rng.random() < 0.15 else drawn
    words = NOUNS.get(mention.category, (mention.category,))
    return words[1] if len(words) > 1 and rng.random() < 0.3 else words[0]


def _phrase(mention: Mention, rng: np.random.Generator) -> str:
    if mention.count > 1:
        return f"{NUMBERS[mention.count - 1]} {plural(mention.category)}"
    word = noun(mention, rng)
    if rng.random() >= 0.45:
        return article(word)
    return f"a {mention.thing.colour if mention.thing else FAVOURITE[mention.category]} {word}"


def place(thing: Thing) -> str:
    """Where in the image an object is, by the direction in which it is furthest from the middle."""
    dx, dy = (value / SIDE - 0.5 for value in thing.centre)
    if max(abs(dx), abs(dy)) < 0.16:
        return "in the middle"
    if abs(dx) >= abs(dy):
        return "on the left" if dx < 0 else "on the right"
    return "at the top" if dy < 0 else "at the bottom"


def relation(first: Thing, second: Thing) -> str:
    """Direction of the first object seen from the second, along the axis on which they are further apart."""
    dx, dy = (a - b for a, b in zip(first.centre, second.centre, strict=True))
    if abs(dx) >= abs(dy):
        return "to the left of" if dx < 0 else "to the right of"
    return "above" if dy < 0 else "below"


def _sentence(mention: Mention, rng: np.random.Generator) -> str:
    if mention.count > 1:
        return f"I can see {_phrase(mention, rng)}."
    phrase = _phrase(mention, rng)
    where = place(mention.thing) if mention.thing else str(rng.choice(PLACES))
    kind = int(rng.choice(4, p=[0.45, 0.2, 0.2, 0.15]))
    optional = f" {where}" if kind in (1, 2) or rng.random() < 0.7 else ""
    return SINGLES[kind].format(
        np=phrase, Np=phrase[0].upper() + phrase[1:], pos=optional, Pos=where[0].upper() + where[1:]
    )


def _pair_sentence(first: Mention, second: Mention, rng: np.random.Generator) -> str:
    one, two = _phrase(first, rng), _phrase(second, rng)
    if rng.random() < 0.4:
        return str(rng.choice(DOUBLES)).format(np=one, np2=two)
    one_seen, two_seen = first.thing, second.thing
    link = relation(one_seen, two_seen) if one_seen and two_seen and rng.random() < 0.7 else "next to"
    return f"{one[0].upper() + one[1:]} is {link} {two}."
