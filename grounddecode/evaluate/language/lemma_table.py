"""Compute grounddecode/evaluate/data/wordnet_lemmas.json from WordNet 3.0: the lemmas that CHAIR and AMBER can look up.

    python -m grounddecode.evaluate.language.lemma_table --wordnet /usr/share/wordnet --amber AMBER/data

WordNet is in Debian's wordnet-base, and in NLTK's data as corpora/wordnet. Only index.* and *.exc are read.
"""

import argparse
import json
import textwrap
from pathlib import Path

from grounddecode.evaluate.scoring.chair_words import official_vocabulary

FILES = {"n": "noun", "v": "verb", "a": "adj", "r": "adv"}
RULES = {
    "n": "s: ses:s ves:f xes:x zes:z ches:ch shes:sh men:man ies:y",
    "v": "s: ies:y es:e es: ed:e ed: ing:e ing:",
    "a": "er: est: er:e est:e",
    "r": "",
}


class WordNet:
    """The lemmas and exceptions of one part of speech, and the lemmatiser of NLTK over them."""

    def __init__(self, folder: Path, pos: str) -> None:
        index = (folder / f"index.{FILES[pos]}").read_text("utf-8").splitlines()
        self.lemmas = {line.split(" ", 1)[0] for line in index if line and not line.startswith(" ")}
        exceptions = (folder / f"{FILES[pos]}.exc").read_text("utf-8").splitlines()
        self.exceptions = {form: lemmas for form, *lemmas in map(str.split, exceptions)}
        self.rules = [tuple(rule.split(":")) for rule in RULES[pos].split()]

    def lemma(self, form: str) -> str:
        """The shortest known form; a form in the exception list is held against that list alone."""
        if form in self.exceptions:
            found = self._known([form, *self.exceptions[form]])
        else:
            forms = [form]
            found = self._known([form, *self._shorten(forms)])
            while not found and forms:
                forms = self._shorten(forms)
                found = self._known(forms)
        return min(found, key=len) if found else form

    def forms_of(self, lemma: str) -> set[str]:
        """The forms that one rule or the exception list may lead to a lemma."""
        by_rule = {lemma.removesuffix(new) + old for old, new in self.rules if lemma.endswith(new)}
        return by_rule | {form for form, lemmas in self.exceptions.items() if lemma in lemmas} | {lemma}

    def _known(self, forms: list[str]) -> list[str]:
        return [form for form in dict.fromkeys(forms) if form in self.lemmas]

    def _shorten(self, forms: list[str]) -> list[str]:
        return [form.removesuffix(old) + new for form in forms for old, new in self.rules if form.endswith(old)]


def targets(amber: Path) -> dict[str, set[str]]:
    """The words that a lemma is looked up for, by the evaluator that does."""
    vocabulary = official_vocabulary()
    chair = {part for word in vocabulary.categories for part in word.split()}
    chair |= {part for first, rest in vocabulary.doubles.items() for part in (first, *rest)}
    relation = json.loads((amber / "relation.json").read_text("utf-8"))
    return {"chair": chair, "amber": {word for key, others in relation.items() for word in (key, *others)}}


def main() -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--wordnet", type=Path, required=True)
    parser.add_argument("--amber", type=Path, required=True)
    default = Path(__file__).parents[1] / "data" / "wordnet_lemmas.json"
    parser.add_argument("--out", type=Path, default=default)
    options = parser.parse_args()
    wanted = targets(options.amber)
    lines = []
    for pos in FILES:
        wordnet = WordNet(options.wordnet, pos)
        words = wanted["chair"] | (wanted["amber"] if pos == "n" else set())
        forms = {form for word in words for form in wordnet.forms_of(word)} | words
        lemmas = {form: wordnet.lemma(form) for form in sorted(forms)}
        kept = [(f, lemma) for f, lemma in lemmas.items() if f != lemma and (lemma in words or f in words)]
        rows = (kept[at : at + 6] for at in range(0, len(kept), 6))
        body = ",\n".join("  " + json.dumps(dict(row))[1:-1] for row in rows)
        lines.append(f' "{pos}": {{\n{body}\n }}')
    about = (
        "Lemmas of WordNet 3.0 (Copyright 2006 Princeton University, WordNet licence) as NLTK's lemmatizer gives "
        "them, by part of speech, for the words of CHAIR and AMBER only; a form that is not listed is its own lemma. "
        "nouns: the words that the table n covers. Written by grounddecode/evaluate/language/lemma_table.py."
    )
    nouns = textwrap.wrap(" ".join(sorted(wanted["chair"] | wanted["amber"])), 116)
    lines = [f' "about": {json.dumps(about)}', *lines, ' "nouns": ' + json.dumps(nouns, indent=2)]
    options.out.write_text("{\n" + ",\n".join(lines) + "\n}\n", "utf-8")


if __name__ == "__main__":
    main()
