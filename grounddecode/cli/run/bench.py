"""`grounddecode bench`, `merge` and `compare`: runs, and what they show side by side."""

from __future__ import annotations

import json
from dataclasses import fields
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from grounddecode.cli.asking import Seed
from grounddecode.cli.engines import Calibration, Device, Dtype, Engine, MaxPixels, Model, Others, Trust, engine_options
from grounddecode.cli.errors import complain, resumable
from grounddecode.cli.output import results_only, width, write_json, write_line
from grounddecode.cli.progress import Meter
from grounddecode.registry import listed

if TYPE_CHECKING:
    from grounddecode.evaluate.cluster.connection import Cluster

OUT_HELP = "Run folder. The same command continues a stopped run; more methods or a larger --limit extend one."
METHODS_HELP = "Comma-separated: greedy, sample, sample+cut, beam, any method, several joined by +."
BENCHMARKS_HELP = "Comma-separated: pope, chair, amber, mme, repope, pope-aokvqa, pope-gqa, dash-b, r-bench, mme-full."
DATA_HELP = "Folder of the benchmarks' data; default: the lab's drawn scenes."
ERRORS_HELP = "Leave with 0 though samples failed, or the model refused a method."
SHARD_HELP = "i/n: every n-th picture only. Put the parts together with `merge`."
SPLIT_HELP = "Of the lab's scenes: evaluation, or calibration to choose settings on."
IDS_HELP = "CHAIR's COCO pictures by a published list: opera-500, opera-500-instructblip."
FLAVOUR_HELP = "Whose rule reads captions; default: that of published tables where its data are, else pattern."
SIMILARITY_HELP = "Which words AMBER takes for one: exact, table:FILE or spacy."
UNFINISHED_HELP = "Score CHAIR captions that were cut without the sentence that the cut left unfinished."
LIMIT_HELP = "Samples of each split at most; of MME one more where it is odd, since a picture has two questions."
LONGEST_HELP = "Longest caption, in tokens."
KEEP_HELP = "Write the metrics to this file too, as committed results are kept."
RECIPE_HELP = "YAML file that says what the other options do not."
RAY_HELP = "Spread over a Ray cluster: local, auto, or the address that `ray start` printed. Same answers."
ACTORS_HELP = "Engines on the cluster; default: one for each share of its GPUs, without GPUs one a node."
GPUS_HELP = "GPUs of one engine, or a fraction of one; default: 1 where there are any."
#: Options of an engine that have one of their own here, and how our argument is called.
_NAMED = {key: key for key in ("device", "dtype", "calibration", "max_pixels")}
_OF_RECIPE, _TRUSTS = "options of the recipe's engine", "the recipe that wants to run a model's code"  # in the context
AllowErrors = Annotated[bool, typer.Option("--allow-errors", help=ERRORS_HELP)]
AsJson = Annotated[bool, typer.Option("--json", help="Print the metrics as one JSON object.")]
Ray = Annotated[str | None, typer.Option("--ray", metavar="ADDRESS", help=RAY_HELP)]
RayActors = Annotated[int | None, typer.Option("--ray-actors", min=1, help=ACTORS_HELP)]
RayGpus = Annotated[float | None, typer.Option("--gpus-per-actor", min=0, help=GPUS_HELP)]


class Form(StrEnum):
    """How tables are written."""

    text = "text"
    markdown = "markdown"
    csv = "csv"
    json = "json"


def _read_recipe(context: typer.Context, recipe: Path | None) -> Path | None:
    """Make what a recipe says the default of the other options."""
    if recipe is None:
        return None
    from grounddecode.evaluate.run.recipe import said

    found = said(recipe)
    engine = found.pop("engine_options", {})
    if engine.pop("trust_remote_code", False):
        context.meta[_TRUSTS] = recipe
    named = {name: engine.pop(key) for key, name in _NAMED.items() if key in engine}
    context.default_map = {key: _as_option(value) for key, value in {**found, **named}.items() if value is not None}
    context.meta[_OF_RECIPE] = [f"{key}={_as_option(value)}" for key, value in engine.items()]
    return recipe


def _as_option(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(str, value))
    return json.dumps(value) if isinstance(value, dict) else str(value)


def bench(
    context: typer.Context,
    model: Model,
    out: Annotated[Path, typer.Option("--out", "-o", help=OUT_HELP)] = Path("out/run"),
    methods: Annotated[str, typer.Option("--methods", help=METHODS_HELP)] = "greedy",
    benchmarks: Annotated[str, typer.Option("--benchmarks", help=BENCHMARKS_HELP)] = "pope,chair",
    recipe: Annotated[
        Path | None, typer.Option("--recipe", is_eager=True, callback=_read_recipe, help=RECIPE_HELP)
    ] = None,
    engine: Engine = "hf",
    data: Annotated[Path | None, typer.Option("--data", help=DATA_HELP)] = None,
    split: Annotated[str, typer.Option("--split", help=SPLIT_HELP)] = "evaluation",
    ids: Annotated[str | None, typer.Option("--ids", metavar="LIST", help=IDS_HELP)] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help=LIMIT_HELP)] = None,
    seed: Seed = 0,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Samples answered together.")] = 8,
    max_new_tokens: Annotated[int | None, typer.Option("--max-new-tokens", min=1, help=LONGEST_HELP)] = None,
    shard: Annotated[str | None, typer.Option("--shard", metavar="I/N", help=SHARD_HELP)] = None,
    pope_rule: Annotated[str, typer.Option("--pope-rule", help="Whose rule reads yes and no.")] = "official",
    chair_flavour: Annotated[str | None, typer.Option("--chair-flavour", help=FLAVOUR_HELP)] = None,
    amber_similarity: Annotated[str, typer.Option("--amber-similarity", help=SIMILARITY_HELP)] = "exact",
    resamples: Annotated[int, typer.Option("--resamples", min=1, help="Of the bootstrap.")] = 1000,
    drop_unfinished: Annotated[bool, typer.Option("--drop-unfinished/--keep-unfinished", help=UNFINISHED_HELP)] = False,
    device: Device = None,
    dtype: Dtype = None,
    calibration: Calibration = None,
    others: Others = None,
    trust: Trust = False,
    max_pixels: MaxPixels = None,
    ray: Ray = None,
    ray_actors: RayActors = None,
    gpus_per_actor: RayGpus = None,
    keep: Annotated[Path | None, typer.Option("--keep", metavar="FILE", help=KEEP_HELP)] = None,
    allow_errors: AllowErrors = False,
    as_json: AsJson = False,
) -> None:
    """Answer benchmarks with several methods, score the answers, write a run folder."""
    from grounddecode.evaluate.run.recipe import Recipe
    from grounddecode.evaluate.run.runner import bench as answer

    if _TRUSTS in context.meta and not trust:
        raise ValueError(
            f"the recipe {str(context.meta[_TRUSTS])!r} has trust_remote_code, which runs code that the model's folder "
            "brings: read that code and give --trust-remote-code, or take it out"
        )
    others = [*context.meta.get(_OF_RECIPE, ()), *(others or ())]  # the later of one name wins
    options = engine_options(device, dtype, calibration, others, trust=trust, max_pixels=max_pixels)
    said = {name: context.params[name] for name in _fields(Recipe) - {"engine_options"}}
    asked, cluster = Recipe(**said, engine_options=options), _cluster(ray, ray_actors, gpus_per_actor)
    _refuse_kept_there(keep, out)
    with results_only(), resumable(out), Meter.shown("bench") as meter:
        metrics = answer(asked, out, progress=meter.answers, cluster=cluster)
    if keep is not None:
        _keep(metrics, keep)
    _show(metrics, out, as_json, allow_errors)


def _fields(recipe: type) -> set[str]:
    return {field.name for field in fields(recipe)}


def _cluster(address: str | None, actors: int | None, gpus: float | None) -> Cluster | None:
    """What `--ray` and its companions say. Raises ValueError for companions alone."""
    if address is None:
        if actors is not None or gpus is not None:
            raise ValueError("--ray-actors and --gpus-per-actor are of a cluster: give --ray local, auto or an address")
        return None
    from grounddecode.evaluate.cluster.connection import Cluster

    return Cluster(address, actors, gpus)


def merge(
    runs: Annotated[list[Path], typer.Argument(help="Run folders of all shards of one run.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Run folder to write.")],
    allow_errors: AllowErrors = False,
    as_json: AsJson = False,
) -> None:
    """Put the shards of a run together and score them."""
    from grounddecode.evaluate.run.merge import merge as together

    with results_only():
        metrics = together(runs, out)
    _show(metrics, out, as_json, allow_errors)


def compare(
    runs: Annotated[list[Path], typer.Argument(help="Run folders.")],
    benchmarks: Annotated[str | None, typer.Option("--benchmarks", help="Comma-separated; default: all.")] = None,
    form: Annotated[Form, typer.Option("--format", help="How to write the tables.")] = Form.text,
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
) -> None:
    """Methods and their controls side by side, with paired intervals."""
    from grounddecode.evaluate.results.compare import compare as side_by_side

    with results_only():
        comparison = side_by_side(runs, listed(benchmarks) if benchmarks else None)
    if as_json or form is Form.json:
        write_json(comparison.to_dict())
    else:
        shown = comparison.text(width()) if form is Form.text else getattr(comparison, form)()
        write_line(shown.rstrip("\n"))


def _refuse_kept_there(keep: Path | None, out: Path) -> None:
    """Raises ValueError where the metrics would be written over what the run folder holds."""
    from grounddecode.evaluate.folder.store import METRICS, RUN, SAMPLES

    if keep is not None and keep.resolve() in [(out / name).resolve() for name in (RUN, SAMPLES, METRICS)]:
        raise ValueError(f"{keep} is a file of the run folder: give another --keep")


def _keep(metrics: dict[str, Any], file: Path) -> None:
    from grounddecode.evaluate.json_lines import write_json as write_to

    file.parent.mkdir(parents=True, exist_ok=True)
    write_to(file, metrics)


def _show(metrics: dict[str, Any], out: Path, as_json: bool, allow_errors: bool) -> None:
    """The metrics or their tables; leaves with 1 when samples or methods failed: they are not of all that was asked."""
    failed, refused = metrics["run"]["n_failed"], metrics["run"].get("refused", {})
    if as_json:
        write_json(metrics)
    else:
        from grounddecode.evaluate.results.compare import tables_of

        write_line(tables_of(metrics).text(width()).rstrip("\n"))
        write_line(f"\nrun folder: {out}" + (f" (failed samples: {failed})" if failed else ""))
    for method, reason in refused.items():
        complain(f"{method} was not measured: {reason}")
    if (failed or refused) and not allow_errors:
        raise typer.Exit(1)
