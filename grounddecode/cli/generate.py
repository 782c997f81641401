"""`grounddecode generate`: one prompt, some pictures, one answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from grounddecode.cli.engines import Calibration, Device, Dtype, Engine, Model, Others, engine_options
from grounddecode.cli.output import results_only, write_json, write_line

if TYPE_CHECKING:
    from grounddecode.method import Method

METHOD_HELP = "A method, several (`locore+avc`), with settings (`avc:alpha=1.5`), or `greedy` for none."


def generate(
    model: Model,
    prompt: Annotated[str, typer.Option("--prompt", "-p", help="What you ask; the chat template is applied to it.")],
    image: Annotated[list[Path] | None, typer.Option("--image", "-i", help="A picture; may be given again.")] = None,
    method: Annotated[str, typer.Option("--method", help=METHOD_HELP)] = "greedy",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A hyper-parameter, e.g. alpha=1.5; may be given again."),
    ] = None,
    engine: Engine = "hf",
    device: Device = None,
    dtype: Dtype = None,
    calibration: Calibration = None,
    others: Others = None,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", min=1, help="Longest answer.")] = 64,
    temperature: Annotated[float, typer.Option("--temperature", min=0.0, help="0 decodes greedily.")] = 0.0,
    top_p: Annotated[float, typer.Option("--top-p", min=0.0, max=1.0, help="Nucleus of sampling.")] = 1.0,
    num_beams: Annotated[int, typer.Option("--num-beams", min=1, help="Beams; 1 is no beam search.")] = 1,
    seed: Annotated[int, typer.Option("--seed", help="Seed of sampling.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of the answer alone.")] = False,
) -> None:
    """Answer one prompt about pictures, with or without a method."""
    pictures = tuple(readable_picture(path) for path in image or ())
    plan = with_settings(method, settings or ())
    sampling = {"do_sample": True, "temperature": temperature, "top_p": top_p} if temperature > 0 else {}
    choices = {"max_new_tokens": max_new_tokens, "num_beams": num_beams, "seed": seed, **sampling}
    options = engine_options(device, dtype, calibration, others)
    with results_only():
        answer = _answer(engine, model, options, prompt, pictures, plan, choices)
    if as_json:
        write_json(answer)
    else:
        write_line(answer["text"])


def _answer(
    engine: str,
    model: str,
    options: dict[str, Any],
    prompt: str,
    images: tuple[Path, ...],
    plan: tuple[Method, ...],
    choices: dict[str, Any],
) -> dict[str, Any]:
    from grounddecode.engines.base import Decoding, Request, open_engine
    from grounddecode.secrets import masked

    decoding = Decoding(**choices)
    opened = open_engine(engine, model, **options)
    try:
        request = Request(sample_id="0", prompt=prompt, images=images)
        (response,) = opened.generate([request], decoding, plan)
        return {
            "text": response.text,
            "model": masked(model),
            "prompt": prompt,
            "images": [str(path) for path in images],
            "methods": [method.to_dict() for method in plan],
            "decoding": asdict(decoding),
            "n_tokens": response.n_tokens,
            "seconds": round(response.seconds, 4),
            "trace": response.trace,
            "engine": opened.describe(),
        }
    finally:
        opened.close()


def readable_picture(path: Path) -> Path:
    """The path of a picture that decodes to its last row. Raises ValueError with the reason otherwise."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as picture:
            picture.load()
    except FileNotFoundError:
        raise ValueError(f"picture {str(path)!r} does not exist") from None
    except UnidentifiedImageError:
        raise ValueError(f"{str(path)!r} is no picture that pillow can read") from None
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"picture {str(path)!r} is broken: {error}") from error
    return path


def with_settings(spec: str, settings: Sequence[str]) -> tuple[Method, ...]:
    """Methods of a specification, changed by `key=value` settings.

    A key goes to the one method that has it; `avc.alpha=2` names the method where several have it.

    Raises:
        ValueError: a setting that is no `key=value`, that no method has, or that several have.
    """
    from grounddecode import registry

    plan = list(registry.parse(spec))
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise ValueError(f"--set {setting!r} is no setting, write key=value")
        if not plan:
            raise ValueError(f"--set {setting!r} has no method to go to, give one with --method")
        at, key = _target(plan, key.strip())
        plan[at] = registry.create(plan[at].name, **{**_given(plan[at]), key: value.strip()})
    return tuple(plan)


def _given(method: Method) -> dict[str, Any]:
    return {key: value for key, value in method.to_dict().items() if key != "name"}


def _target(plan: Sequence[Method], key: str) -> tuple[int, str]:
    """Which method of the plan a key belongs to, and the name of its field."""
    from grounddecode.registry import nearest

    owner, dot, bare = key.partition(".")
    if dot:
        owners = [at for at, method in enumerate(plan) if method.name == owner]
        if not owners:
            raise ValueError(nearest(owner, [method.name for method in plan], "method given with --method"))
        return owners[0], bare
    owners = [at for at, method in enumerate(plan) if key in _given(method)]
    if len(owners) == 1:
        return owners[0], key
    if owners:
        names = " and ".join(plan[at].name for at in owners)
        raise ValueError(f"--set {key}: {names} have it, write {plan[owners[0]].name}.{key}=...")
    known = dict.fromkeys(field for method in plan for field in _given(method))
    raise ValueError(nearest(key, known, f"hyper-parameter of {'+'.join(method.name for method in plan)}"))
