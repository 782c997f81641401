"""`grounddecode methods`: what there is, where it comes from, and what can be set."""

from __future__ import annotations

from dataclasses import Field, fields
from typing import TYPE_CHECKING, Annotated, Any

import typer

from grounddecode.cli.output import stdout, write_json

if TYPE_CHECKING:
    from grounddecode.method import Method


def methods(
    name: Annotated[str | None, typer.Argument(help="One method only, with its hyper-parameters.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    json_schema: Annotated[
        bool, typer.Option("--json-schema", help="Print the JSON schema of what a request to vLLM may say.")
    ] = False,
) -> None:
    """List the decoding methods and their hyper-parameters."""
    from grounddecode import registry

    if json_schema:
        from grounddecode.engines.vllm.frontend.schema import json_schema as schema

        write_json(schema())
        return
    chosen = [name] if name is not None else registry.names()
    cards = {method: card(registry.method_class(method)) for method in chosen}
    if as_json:
        write_json({"methods": cards})
    elif name is not None:
        _show_one(name, cards[name])
    else:
        _show_all(cards)


def card(method: type[Method]) -> dict[str, Any]:
    """What a class says about itself: summary, paper, needs and every hyper-parameter, JSON-able."""
    return {
        "summary": method.summary,
        "paper": method.paper,
        "needs": [need.name.lower() for need in method.needs() if need.name],
        "options": {f.name: _option(f) for f in fields(method)},
    }


def _option(field: Field[Any]) -> dict[str, Any]:
    default = list(field.default) if isinstance(field.default, tuple) else field.default
    described = {"default": default, "help": field.metadata["help"], "source": field.metadata["source"]}
    return described | ({"neutral": field.metadata["neutral"]} if "neutral" in field.metadata else {})


def _show_all(cards: dict[str, dict[str, Any]]) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("method", no_wrap=True)
    table.add_column("what it does")
    table.add_column("options (defaults)")
    table.add_column("source")
    for name, about in cards.items():
        settings = ", ".join(f"{key}={option['default']}" for key, option in about["options"].items())
        table.add_row(name, about["summary"], settings, about["paper"])
    console = stdout()
    console.print(table)
    console.print("\nMore about one: grounddecode methods NAME. Several together: --method locore+avc.", style="dim")


def _show_one(name: str, about: dict[str, Any]) -> None:
    from rich.table import Table

    console = stdout()
    console.print(f"[bold]{name}[/]: {about['summary']}")
    console.print(f"paper: {about['paper']}    needs: {', '.join(about['needs']) or 'nothing'}\n")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("option", "default", "from", "meaning"):
        table.add_column(heading)
    for key, option in about["options"].items():
        table.add_row(key, str(option["default"]), option["source"], option["help"])
    console.print(table)
