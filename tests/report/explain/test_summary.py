"""The sentences at the top of the explain page."""

from __future__ import annotations

from dataclasses import replace

import pytest

from grounddecode.report.explain.account import Account, Candidate, Choice
from grounddecode.report.explain.summary import sentences
from tests.report.explain.accounts import account, told


def chosen(choice: Choice) -> Account:
    """The account in which the first word that differs was chosen so."""
    made = account()
    words = list(made.told[1].words)
    words[2] = replace(words[2], choice=choice)
    return replace(made, told=(made.told[0], replace(made.told[1], words=tuple(words))))


def test_what_a_method_changed_and_what_it_moved() -> None:
    cup, dog = Candidate("cup", (0.25, 0.5, 0.75), True), Candidate("dog", (0.6, 0.7, None), False)
    assert sentences(chosen(Choice(("plain model", "avc.second", "avc"), (cup, dog), ("avc",)))) == [
        "With avc the answer no longer names dog (in the picture).",
        "With avc the answer also names cup (not in the picture, the word rests 5 % on it).",
        "The answers part where “cup” came in place of “dog”: "
        "avc moved “cup” from 25.0 % to 75.0 %, “dog” from 60.0 % to about 0 %.",
    ]


def test_the_stage_is_named_that_moved_another_token_to_the_front() -> None:
    cup, dog = Candidate("cup", (0.1, 0.6, 0.7), True), Candidate("dog", (0.9, 0.4, 0.3), False)
    told_ = sentences(chosen(Choice(("plain model", "locore", "avc"), (cup, dog), ("locore",))))
    assert told_[-1].endswith("locore moved “cup” from 10.0 % to 60.0 %, “dog” from 90.0 % to 40.0 %.")


def test_what_was_turned_down_is_said() -> None:
    cup = Candidate("cup", (0.25,), True)
    dog = Candidate("dog", (0.75,), False, ("turned down by sgrs (score 0.010)",))
    assert sentences(chosen(Choice(("plain model",), (cup, dog))))[-1] == (
        "The answers part where “dog”, the plain model's choice, was turned down by sgrs (score 0.010) and “cup” came."
    )


def test_one_answer_and_two_equal_ones() -> None:
    plain, other = account().told
    assert sentences(account(told=(plain,))) == [
        "Everything that the answer names is in the picture.",
        "Of its objects “dog” rests least on the picture, 90 %.",
    ]
    assert sentences(account(told=(other,)))[0] == "The answer names what is not in the picture: cup."
    same = replace(plain, name="avc", differs=None)
    assert sentences(account(told=(plain, same))) == ["avc changes no word of the answer."]
    assert sentences(account(told=(told("plain model", ["A"], [0.5]),))) == []


def told_of(prompt: str, before: str, after: str) -> list[str]:
    pairs = zip(("plain model", "avc"), (before.split(), after.split()), strict=True)
    answers = tuple(told(name, words, [0.5] * len(words)) for name, words in pairs)
    return [one for one in sentences(account(prompt=prompt, told=answers)) if "part" not in one and "ends" not in one]


@pytest.mark.parametrize(
    "prompt",
    [
        "Is there a cup in the image?",
        "USER: <image>\nIs there a cup in the image? ASSISTANT:",
        "In this picture, does the man hold it?",
        "Can you see a cup in this image? Please answer only with yes or no.",
        "The image shows a python code. Is the output of the code 'Hello'? Please answer yes or no.",
    ],
)
def test_of_a_yes_or_no_it_is_said_which(prompt: str) -> None:
    assert told_of(prompt, "No", "Yes") == ["With avc the answer changes from No to Yes."]
    assert told_of(prompt, "Yes", "There is none, no") == ["With avc the answer changes from Yes to No."]
    assert told_of(prompt, "No", "No it is not") == ["With avc the answer is No still, in other words."]


def test_objects_in_an_answer_to_a_question_are_named_besides() -> None:
    assert told_of("Is there a cup?", "No", "Yes a cup")[0] == "With avc the answer changes from No to Yes."
    assert told_of("Is there a cup?", "No", "Yes a cup")[1].startswith("With avc the answer also names cup (not in the")


def test_where_no_object_is_named_none_is_spoken_of() -> None:
    assert told_of("What colour is it?", "Not red", "No idea") == ["With avc the answer is another."]
    assert told_of("Is it red?", "Perhaps", "Yes") == ["With avc the answer is another."]
    assert told_of("Describe it.", "Nothing is there", "Nobody is not there") == ["With avc the answer is another."]
    assert told_of("Describe it.", "A dog", "One dog") == ["With avc the answer names the same objects in other words."]
