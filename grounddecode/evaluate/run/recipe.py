"""The recipe of a run: everything a bench is told, in one object that pickles; its file, and its part in run.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, get_type_hints

from grounddecode.engines.base import INCIDENTAL
from grounddecode.evaluate.benchmarks.base import EVALUATION, Wanted
from grounddecode.evaluate.benchmarks.chair import images_of
from grounddecode.evaluate.benchmarks.rules import Scoring
from grounddecode.evaluate.folder.schema import Between, Misfit, check
from grounddecode.evaluate.run.batches import parse_shard
from grounddecode.evaluate.sample import LAB_DATA
from grounddecode.evaluate.scoring.chair import PATTERN, default_flavour
from grounddecode.registry import listed, nearest
from grounddecode.schema import once
from grounddecode.secrets import masked

#: What an engine says about itself that the answers depend on.
ENGINE_FACTS = ("engine", "model", "class", "dtype", "attention", "url")
#: What differs because something else does, and says little by itself.
_FOLLOWING = ("questions", "plans")
_MOST = 3  # differences named in a sentence
_LISTS = ("methods", "benchmarks")
_OURS = ("about",)  # fields of a file that are none of a recipe


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a bench does: the command line's options, a YAML file, and the settings in run.json.

    Attributes:
        model: "lab", "lab:NAME", "lab2", a folder, a hub id, or whatever the engine takes.
        engine: an engine by name, see `grounddecode.engines.base`.
        methods: plans, see `grounddecode.registry.plan`; methods decode greedily unless they say otherwise.
        benchmarks: of `grounddecode.evaluate.benchmarks.table.names()`.
        limit: at most so many samples of each split of a benchmark; None: all.
        seed: of sampling.
        batch_size: samples asked at once, 1 or more. Padding can change answers a little; 1 for reference runs.
        data: folder of the benchmarks' data; None: the lab's drawn scenes.
        split: of the lab's scenes: "evaluation", or "calibration" to choose settings on.
        ids: CHAIR's pictures by the name of a published list, such as "opera-500"; None: `chair/images.txt`, or drawn.
        shard: "i/n", i from 1 to n: answer only every n-th picture; see `grounddecode.evaluate.run.merge.merge`.
        max_new_tokens: of captions; None: 60 on the lab, 512 elsewhere.
        pope_rule, chair_flavour, amber_similarity: how answers are scored; CHAIR's flavour is by default `pattern` on
            the lab, else `grounddecode.evaluate.scoring.chair.default_flavour()`.
        resamples: of the bootstrap.
        drop_unfinished: score CHAIR captions that were cut at `max_new_tokens` without the sentence that the cut left
            unfinished.
        engine_options: passed on to the engine, such as `{"device": "cuda:1"}`.

    Raises:
        ValueError: a field of another type, or out of its range.
    """

    model: str
    engine: str = "hf"
    methods: tuple[str, ...] = ("greedy",)
    benchmarks: tuple[str, ...] = ("pope", "chair")
    limit: int | None = None
    seed: int = 0
    batch_size: int = 8
    data: str | None = None
    split: str = EVALUATION
    ids: str | None = None
    shard: str | None = None
    max_new_tokens: Annotated[int, Between(1)] | None = None
    pope_rule: str = "official"
    chair_flavour: str | None = None
    amber_similarity: str = "exact"
    resamples: int = 1000
    drop_unfinished: bool = False
    engine_options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in _LISTS:
            value = getattr(self, name)
            object.__setattr__(self, name, tuple(listed(value)) if isinstance(value, str | list | tuple) else value)
        object.__setattr__(self, "data", None if self.data in (None, LAB_DATA) else _text(self.data))
        object.__setattr__(self, "engine_options", _mapping(self.engine_options))
        hints = get_type_hints(Recipe, include_extras=True)
        for one in fields(self):
            check(getattr(self, one.name), hints[one.name], one.name)
        if self.batch_size < 1:
            raise Misfit(f"batch_size is {self.batch_size}: give at least 1")
        if self.shard is not None:
            parse_shard(self.shard)
        if self.ids is not None:
            if self.data is None or "chair" not in self.benchmarks:
                raise Misfit(
                    f"ids is {self.ids!r}, which lists CHAIR's COCO pictures: give data and the benchmark chair"
                )
            images_of(self.ids)

    @property
    def root(self) -> Path | None:
        """The folder of the data, or None for the lab's drawn scenes."""
        return None if self.data is None else Path(self.data)

    @property
    def flavour(self) -> str:
        """CHAIR's flavour, the default one resolved."""
        return self.chair_flavour or (PATTERN if self.data is None else default_flavour())

    def scoring(self) -> Scoring:
        """By which rules the answers are scored. Raises ValueError for rules that do not exist."""
        rules = (self.pope_rule, self.flavour, self.amber_similarity, self.resamples)
        return Scoring(*rules, self.data or LAB_DATA, self.drop_unfinished)

    def wanted(self, flavour: str | None = None) -> Wanted:
        """What of each benchmark is asked; `flavour`: of CHAIR's ground truth, instead of the recipe's own."""
        from grounddecode.lab import drawn_split

        split = self.split if self.data is not None else drawn_split(self.model, self.split)
        return Wanted(self.root, self.limit, self.max_new_tokens, flavour or self.flavour, split, self.ids)

    def settings(self) -> dict[str, Any]:
        """The part that answers depend on, as run.json holds it: without secrets, so that another key resumes a run.

        Of a folder whose record says a world of the lab, the split is that world's: scored anew, it may have moved.
        """
        from grounddecode.lab import name_of

        split = self.wanted().split if name_of(self.model) is None else self.split
        return {
            "model": masked(self.model),
            "engine": self.engine,
            "engine_options": lasting(self.engine_options),
            "methods": sorted(self.methods),
            "benchmarks": sorted(set(self.benchmarks)),
            "seed": self.seed,
            "batch_size": self.batch_size,
            "shard": self.shard,
            "limit": self.limit,
            "max_new_tokens": self.max_new_tokens,
            **({} if split == EVALUATION else {"split": split}),  # older folders say nothing, and mean it
            **({} if self.ids is None else {"ids": self.ids}),
            "data": LAB_DATA if self.data is None else "folder",
        }


def read(path: Path | str) -> Recipe:
    """The recipe of a file. `about` says what it is for, and is left out.

    Raises:
        ValueError: no readable YAML mapping, a field that a recipe does not have or of another type, or no model.
    """
    found = said(path)
    if "model" not in found:
        raise ValueError(f"the recipe {str(path)!r} names no model: write `model: ...` and other fields of a recipe")
    try:
        return Recipe(**found)
    except ValueError as error:
        raise ValueError(f"in the recipe {str(path)!r} {error}") from None


def said(path: Path | str) -> dict[str, Any]:
    """The fields that a file names, checked by name alone.

    Raises:
        ValueError: no readable YAML mapping, or a field that a recipe does not have.
    """
    found = _load(path)
    if not isinstance(found, dict):
        raise ValueError(f"the recipe {str(path)!r} names no model: write `model: ...` and other fields of a recipe")
    known = [field.name for field in fields(Recipe)]
    for key in found:
        if key not in known and key not in _OURS:
            raise ValueError(nearest(str(key)[:40], known, f"argument of bench, in the recipe {str(path)!r}"))
    if not isinstance(found.get("engine_options", {}), Mapping):
        raise ValueError(f"engine_options of the recipe {str(path)!r} are no mapping: write `key: value` lines")
    return {key: value for key, value in found.items() if key not in _OURS}


def lasting(options: Mapping[str, Any]) -> dict[str, Any]:
    """An engine's options without those that starts of one run may differ in, the path of a calibration among them."""
    paths = {key for key in ("calibration",) if isinstance(options.get(key), str | Path)}
    return dict(masked({key: plain(value) for key, value in options.items() if key not in INCIDENTAL | paths}))


def digest(settings: Mapping[str, Any]) -> str:
    """SHA-256 of settings."""
    return sha256(json.dumps(settings, sort_keys=True, ensure_ascii=False).encode(errors="replace")).hexdigest()


def refuse_others(folder: str, stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Nothing, when both are the same; else one sentence that names what differs.

    Raises:
        ValueError: they differ.
    """
    different = [key for key in {**stored, **wanted} if plain(stored.get(key)) != plain(wanted.get(key))]
    if not different:
        return
    different = [key for key in different if key not in _FOLLOWING] or different
    told = [f"{key} {_short(stored.get(key))}, not {_short(wanted.get(key))}" for key in different[:_MOST]]
    more = f" and {len(different) - _MOST} more" if len(different) > _MOST else ""
    raise ValueError(
        f"{folder!r} holds a run with {'; '.join(told)}{more}: give the same settings to resume it, or another --out"
    )


def engine_facts(description: Mapping[str, Any]) -> dict[str, Any]:
    """The part of an engine's description that the answers depend on."""
    return {key: description[key] for key in ENGINE_FACTS if key in description}


def made_by(run: Mapping[str, Any]) -> str:
    """What gave the answers of a run, as text: runs in which it differs are not compared."""
    settings = run["settings"]
    told = {"model": settings["model"], "weights": settings["weights"], "engine": settings["engine"]}
    options = {"options": lasting(settings["engine_options"])}
    return json.dumps(told | options | engine_facts(run["engine"]), sort_keys=True, default=str)


def plain(value: Any) -> Any:
    """As JSON gives it back; what JSON does not know, as its `to_dict` or its text."""
    return json.loads(json.dumps(value, default=lambda other: getattr(other, "to_dict", other.__str__)()))


def _load(path: Path | str) -> Any:
    """The YAML of a file. A name given twice is refused; anchors too: a few can stand for more than memory holds."""
    import yaml

    try:
        with open(path, encoding="utf-8-sig") as file:
            loader: Any = yaml.SafeLoader(file.read())
        compose, compose_mapping = loader.compose_node, loader.compose_mapping_node

        def without_aliases(parent: Any, index: Any) -> Any:
            if loader.check_event(yaml.AliasEvent):
                raise yaml.YAMLError("it has an alias (*name): write the value out")
            return compose(parent, index)

        def each_once(anchor: Any) -> Any:
            node = compose_mapping(anchor)
            once(((str(key.value), None) for key, _ in node.value), "in it")
            return node

        loader.compose_node, loader.compose_mapping_node = without_aliases, each_once
        return loader.get_single_data()
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else " ".join(str(error).split())
        raise ValueError(f"the recipe {str(path)!r} cannot be read: {reason}") from None


def _text(path: object) -> object:
    return str(path) if isinstance(path, Path) else path


def _mapping(options: object) -> object:
    """A copy that nobody else changes."""
    return dict(options) if isinstance(options, Mapping) else options


def _short(value: Any) -> str:
    if value is None:
        return "unset"
    text = ",".join(str(item) for item in value) if isinstance(value, list | tuple) else str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
