"""Time of the scorers on inputs of the benchmarks' sizes, against the bars that they have to meet.

    python -m benchmarks.timing.scorers --out benchmarks/results/scorers.json
    python -m benchmarks.timing.scorers --captions CAPTIONS.jsonl --amber AMBER/data

Every figure is the first call in a process of its own (no warm caches), import and reading of files not counted: the
median of the wall time and of the processor time of five processes. The scorers run in one thread and wait for nothing,
so that the processor time is what they take on a machine of their own; the bars are held against it, and the load that
the wall time was taken under is in the file. Without --captions and --amber the texts are made up from the scorers' own
words, in the sizes of the real sets: 500 captions of about 100 tokens, 3,000 answers, 1,004 descriptions and 14,216
questions.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path

BARS = {"chair_pattern": 0.25, "pope_official": 0.05, "amber_generative": 1.0}
FILLER = ["the", "a", "of", "and", "in", "with", "on", "near", "is", "several", "image", "shows", "large", "can"]


def captions(path: str | None) -> list[dict]:
    """500 captions, read or made up."""
    from grounddecode.evaluate import json_lines
    from grounddecode.evaluate.scoring.chair_words import official_vocabulary

    if path:
        return json_lines.read(path)
    rng = random.Random(0)
    words = sorted(official_vocabulary().categories)
    return [{"image_id": image, "caption": text(rng, words, 96)} for image in range(500)]


def text(rng: random.Random, words: list[str], length: int) -> str:
    """Five sentences with an object in every sixth place."""
    body = [rng.choice(words) if place % 6 == 5 else rng.choice(FILLER) for place in range(length)]
    cut = length // 5
    return " ".join(" ".join(body[at : at + cut]).capitalize() + "." for at in range(0, length, cut))


def chair_job(options: argparse.Namespace, flavour: str):
    """Score 500 captions with one flavour."""
    from grounddecode.evaluate.scoring import chair

    rows = captions(options.captions)
    truth = {row["image_id"]: ["person", "dog"] for row in rows}
    return lambda: chair.score(rows, truth, flavour)


def pope_job(options: argparse.Namespace, rule: str):
    """Score 3,000 answers with one rule."""
    from grounddecode.evaluate.scoring import pope

    questions = [{"label": "yes" if number % 2 else "no"} for number in range(3000)]
    answers = ["Yes, there is a dog in the image." if number % 3 else "No, there is not." for number in range(3000)]
    return lambda: pope.score(questions, answers, rule)


def amber_data(folder: str | None):
    """AMBER's data, or annotations of its size over the words that we know."""
    from grounddecode.evaluate.language.word_lists import data
    from grounddecode.evaluate.scoring import amber

    if folder:
        return amber.load(folder)
    rng = random.Random(0)
    nouns = " ".join(data("wordnet_lemmas.json")["nouns"]).split()[:418]
    relation = {word: rng.sample(nouns, 2) for word in nouns}
    described = [
        {"type": "generative", "truth": rng.sample(nouns, 6), "hallu": rng.sample(nouns, 5)} for _ in range(1004)
    ]
    asked = [{"type": "discriminative-hallucination", "truth": "no"} for _ in range(14216)]
    return amber.AmberData(described + asked, relation, frozenset({"orange"}), {})


def amber_job(options: argparse.Namespace, task: str, tagger: str = "rules"):
    """Score 1,004 descriptions or 14,216 questions."""
    from grounddecode.evaluate.scoring import amber

    data = amber_data(options.amber)
    rng = random.Random(1)
    words = sorted(data.words)
    described = [{"id": number, "response": text(rng, words, 90)} for number in range(1, 1005)]
    asked = [{"id": number, "response": rng.choice(["Yes", "No"])} for number in range(1005, 15221)]
    if tagger == "perceptron":
        _install_weights([row["response"] for row in described])
        tagger = "nltk"
    rows = described if task == "g" else asked
    return lambda: amber.score(data, rows, task, "exact", tagger=tagger)


def _install_weights(texts: list[str]) -> None:
    """A tagger with random weights in the shape of NLTK's: 45 classes, 12 weights for every feature of the texts."""
    from grounddecode.evaluate.language import tagger, tokens

    rng = random.Random(2)
    classes = [f"NN{number}" for number in range(45)]
    known = {word: "NN1" for body in texts for word in tokens.words(body) if rng.random() < 0.1}

    class Everything(dict):
        def __contains__(self, feature: object) -> bool:
            return True

        def __missing__(self, feature: str) -> dict[str, float]:
            self[feature] = {name: rng.random() for name in rng.sample(classes, 12)}
            return self[feature]

    ready = tagger.Tagger(Everything(), known, classes)
    tagger.tagger = lambda: ready


JOBS = {
    "chair_pattern": lambda options: chair_job(options, "pattern"),
    "chair_fixed": lambda options: chair_job(options, "fixed"),
    "pope_official": lambda options: pope_job(options, "official"),
    "pope_opera": lambda options: pope_job(options, "opera"),
    "pope_vcd": lambda options: pope_job(options, "vcd"),
    "amber_generative": lambda options: amber_job(options, "g"),
    "amber_generative_perceptron": lambda options: amber_job(options, "g", "perceptron"),
    "amber_discriminative": lambda options: amber_job(options, "d"),
}


def measure(name: str, options: argparse.Namespace) -> dict[str, float]:
    """The first call of one job in this process."""
    job = JOBS[name](options)
    wall, cpu = time.perf_counter(), time.process_time()
    job()
    return {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}


def main() -> None:
    """Run every job in processes of its own and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--captions", help="a caption file instead of made-up captions")
    parser.add_argument("--amber", help="AMBER's data folder instead of made-up annotations")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/scorers.json"))
    parser.add_argument("--job", choices=JOBS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job:
        print(json.dumps(measure(options.job, options)))
        return
    table = {}
    for name in JOBS:
        command = [sys.executable, "-m", "benchmarks.timing.scorers", "--job", name]
        for option in ("captions", "amber"):
            if getattr(options, option):
                command += [f"--{option}", getattr(options, option)]
        runs = [json.loads(subprocess.check_output(command)) for _ in range(options.repeats)]
        table[name] = {key: round(statistics.median(run[key] for run in runs), 4) for key in runs[0]}
        if name in BARS:
            table[name] |= {"bar": BARS[name], "met": table[name]["cpu_seconds"] <= BARS[name]}
        print(name, table[name])
    given = " --captions FILE" * bool(options.captions) + " --amber DIR" * bool(options.amber)
    about = {
        "command": f"python -m benchmarks.timing.scorers{given}",
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 1),
        "repeats": options.repeats,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps({"about": about, "results": table}, indent=1) + "\n")


if __name__ == "__main__":
    main()
