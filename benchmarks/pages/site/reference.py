"""The reference: public names of the package from their docstrings, and every command with its options."""

from __future__ import annotations

import inspect
from importlib import import_module
from types import ModuleType
from typing import Any

from benchmarks.pages.site import tables
from benchmarks.pages.site.docstrings import UndocumentedError, markdown, told
from grounddecode import registry
from grounddecode.method import Method

MODULES = (
    "grounddecode",
    "grounddecode.method",
    "grounddecode.view",
    "grounddecode.reads",
    "grounddecode.registry",
    "grounddecode.calibration",
    "grounddecode.trace",
    "grounddecode.saliency",
    "grounddecode.engines.base",
    "grounddecode.engines.hf",
    "grounddecode.images.layout",
    "grounddecode.maths",
    "grounddecode.lab",
    "logits_processors.hf",
)


def public(module: ModuleType) -> list[str]:
    """Names that a module offers: those it lists, else those it defines."""
    listed = getattr(module, "__all__", None)
    if listed is not None:
        return [name for name in listed if not name.startswith("_")]
    own = (name for name, thing in vars(module).items() if getattr(thing, "__module__", "") == module.__name__)
    return [name for name in own if not name.startswith("_") and callable(getattr(module, name))]


def page(module_name: str) -> str:
    """Every public name of a module. Raises UndocumentedError where one says nothing of itself."""
    module = import_module(module_name)
    parts = [f"# {module_name}", markdown(told(module, module_name))]
    for name in public(module):
        thing = getattr(module, name)
        if isinstance(thing, type) and issubclass(thing, Method) and thing is not Method:
            parts.append(f"## {name}\n\nA method: [{thing.name}](../methods/{thing.name}.md).")
            continue
        parts.append(_entry(name, thing, f"{module_name}.{name}", "##"))
    return "\n\n".join(parts) + "\n"


def _entry(name: str, thing: Any, path: str, head: str) -> str:
    text = [f"{head} {name}", f"```python\n{name}{_signature(thing)}\n```", markdown(told(thing, path))]
    if inspect.isclass(thing):
        text += [_entry(key, member, f"{path}.{key}", head + "#") for key, member in _members(thing)]
    return "\n\n".join(text)


def _members(cls: type) -> list[tuple[str, Any]]:
    """What a class defines itself that is public and can be called or asked."""
    found = []
    for key, value in vars(cls).items():
        member = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
        if not key.startswith("_") and inspect.isfunction(member):
            found.append((key, member))
    return found


def _signature(thing: Any) -> str:
    try:
        return str(inspect.signature(thing))
    except (TypeError, ValueError):
        return ""


# -- commands ----------------------------------------------------------------------------------------------------------
def commands() -> dict[str, Any]:
    """Every command by its words: `score pope` and the like are two."""
    import typer

    from grounddecode.cli.app import app

    found: dict[str, Any] = {}

    def walk(command: Any, words: tuple[str, ...]) -> None:
        inner = getattr(command, "commands", None)
        if inner is None:
            found[" ".join(words)] = command
            return
        for name, one in inner.items():
            walk(one, (*words, name))

    walk(typer.main.get_command(app), ())
    return found


def command_page() -> str:
    """All commands. Raises UndocumentedError for one, or an option of one, without a word about it."""
    parts = ["# Commands", "`grounddecode COMMAND --help` says the same, `--json` prints results for programs."]
    for words, command in commands().items():
        if not command.help:
            raise UndocumentedError(f"grounddecode {words} has no help")
        parts += [f"## grounddecode {words}", command.help.strip(), _option_table(words, command)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _option_table(words: str, command: Any) -> str:
    rows = [["option", "meaning", "default"], ["---"] * 3]
    for parameter in command.params:
        name = parameter.name if parameter.param_type_name == "argument" else ", ".join(parameter.opts)
        if parameter.name == "help":
            continue
        if not getattr(parameter, "help", None):
            raise UndocumentedError(f"{name} of grounddecode {words} has no help")
        default = parameter.default if not callable(parameter.default) else None
        shown = "" if default is None or default is False or parameter.required else f"`{default}`"
        meaning = parameter.help.replace("|", "\\|").replace("<", "&lt;")
        rows.append([f"`{name}`", meaning, shown])
    return "" if len(rows) == 2 else "\n".join(map(tables.joined, rows))


def documented() -> list[str]:
    """The modules and methods that have a page."""
    return [*MODULES, *registry.names()]
