"""Word tokens as NLTK 3.8.1 `word_tokenize` cuts them, without its trained sentence model."""

from __future__ import annotations

import re

from grounddecode.evaluate.language.word_lists import word_list

# Steps, their order and the character classes are facts of NLTK's tokenizers (Apache-2.0): Penn Treebank rules after
# the Punkt sentence splitter. Each step below first asks whether its character occurs at all.
_OPENING_MARKS = re.compile("([«“‘„]|`+)")
_QUOTE_AFTER_OPENER = re.compile(r"([ (\[{<])(\"|'')")
_LONE_LETTER = re.compile(r"(?i)'(?!re|ve|ll|m|t|s|d|n)(?=\w\b)")
_LAST_DOT = re.compile(r"([^.])\.([\])}>\"'»”’ ]*)\s*$")
_COMMA_OR_COLON = re.compile(r"([:,])([^\d])")
_DOTS = re.compile(r"(\.{2,})")
_SYMBOLS = re.compile(r"([;@#$%&])")
_MARKS = re.compile(r"([?!*])")
_BRACKETS = re.compile(r"([\]\[(){}<>])")
_APOSTROPHE_BLANK = re.compile(r"([^'])' ")
_CLOSING_MARKS = re.compile("([»”’])")
_CLITIC = re.compile(r"([^' ])('[sSmMdD]|') ")
_LONG_CLITIC = re.compile(r"([^' ])('ll|'LL|'re|'RE|'ve|'VE|n't|N'T) ")
_CONTRACTIONS = tuple(
    (sign, re.compile(f"(?i){pattern}"))
    for sign, pattern in (
        ("cannot", r"\b(can)(not)\b"),
        ("d'ye", r"\b(d)('ye)\b"),
        ("gimme", r"\b(gim)(me)\b"),
        ("gonna", r"\b(gon)(na)\b"),
        ("gotta", r"\b(got)(ta)\b"),
        ("lemme", r"\b(lem)(me)\b"),
        ("more'n", r"\b(more)('n)\b"),
        ("wanna", r"\b(wan)(na)(?=\s)"),
        ("'tis", r" ('t)(is)\b"),
        ("'twas", r" ('t)(was)\b"),
    )
)

# A dot that may end a sentence: one alone, before a blank or a mark, with the word it ends and the one that follows.
# Where one stretch without blanks has several ends (`it.!`, `it.".`), Punkt looks at the last of them alone.
_MARK = r"[)\"}\];*:@'({\[!?]"
_SENTENCE_DOT = re.compile(
    rf"('?[^\s()\"{{}}\[\]*:;@!?']*)(?<!\.)\.(?=({_MARK})|(\s+)(\S+))(?!\S*[.?!](?:{_MARK}|\s+\S))"
)
_ENDS_INSIDE = re.compile(rf"[?!].|\.,?{_MARK}|\.,$")
#: Closing marks alone behind an end belong to the sentence before, whose last dot is then cut off by `_LAST_DOT` only.
_CLOSERS = re.compile(r"[\"')\]}]+")
_NUMBER = re.compile(r"-?[.,]?\d[\d,.-]*")
#: Never begins a sentence, so that a number or a letter before it keeps its dot.
_NO_START = re.compile(r"[;:,!?]|\.$")
#: Abbreviations of Punkt's English model: a dot after one ends no sentence, unless one clearly starts behind it.
_ABBREVIATIONS = frozenset(word_list("abbreviations"))
_SENTENCE_STARTERS = frozenset(word_list("sentence_starters"))


def words(text: str) -> list[str]:
    """The tokens of a text, punctuation included.

    Without the trained sentence model the dot of every word is split off, save after numbers, single letters and
    abbreviations that go on in lower case. On real captions this gives the same tokens everywhere; they can differ
    where the model remembers a word in lower case at the beginning of a sentence, and by its 37 known word pairs.
    """
    text = _SENTENCE_DOT.sub(_split_dot, text.strip())
    text = _open_quotes(text)
    text = _punctuation(text)
    if "--" in text:
        text = text.replace("--", " -- ")
    text = _close_quotes(f" {text} ")
    lower = text.lower()
    for sign, pattern in _CONTRACTIONS:
        if sign in lower:
            text = pattern.sub(r" \1 \2 ", text)
    return text.split()


def _split_dot(match: re.Match[str]) -> str:
    """The word and its dot, apart unless the sentence goes on behind the dot.

    Punkt looks at the next word with its marks, so that an end inside that (`Hi!"`) makes an end of this dot too.
    """
    word, following = match[1].lower().lstrip("#&`,-"), match[4] or ""  # Punkt's words do not begin with those
    if _CLOSERS.fullmatch(following) and ('"' in following or "''" in following or match[3].strip(" ")):
        return match[0]
    is_letter = len(word) == 1 and word.isalpha()
    if word in _ABBREVIATIONS or word.rpartition("-")[2] in _ABBREVIATIONS:
        goes_on = is_letter or not (following[:1].isupper() and following.lower() in _SENTENCE_STARTERS)
    else:
        no_start = following[:1].islower() or _NO_START.match(match[2] or following) is not None
        goes_on = no_start and (is_letter or _NUMBER.fullmatch(word) is not None)
    return match[0] if goes_on and not _ENDS_INSIDE.search(following) else f"{match[1]} . "


def _open_quotes(text: str) -> str:
    text = _OPENING_MARKS.sub(r" \1 ", text)
    if '"' in text or "''" in text or "``" in text:
        if text.startswith('"'):
            text = "``" + text[1:]
        text = text.replace("``", " `` ")
        text = _QUOTE_AFTER_OPENER.sub(r"\1 `` ", text)
    return _LONE_LETTER.sub("' ", text) if "'" in text else text


def _punctuation(text: str) -> str:
    text = _LAST_DOT.sub(r"\1 . \2 ", text)
    text = _COMMA_OR_COLON.sub(r" \1 \2", text)
    if text.endswith((":", ",")):
        text = f"{text[:-1]} {text[-1]} "
    if ".." in text:
        text = _DOTS.sub(r" \1 ", text)
    text = _SYMBOLS.sub(r" \1 ", text)
    text = _MARKS.sub(r" \1 ", text)
    if "' " in text:
        text = _APOSTROPHE_BLANK.sub(r"\1 ' ", text)
    return _BRACKETS.sub(r" \1 ", text)


def _close_quotes(text: str) -> str:
    text = _CLOSING_MARKS.sub(r" \1 ", text)
    if '"' in text or "''" in text:
        text = text.replace("''", " '' ").replace('"', " '' ")
    if "'" in text:
        text = _CLITIC.sub(r"\1 \2 ", text)
        text = _LONG_CLITIC.sub(r"\1 \2 ", text)
    return text
