"""What a request may say, as a JSON schema."""

from __future__ import annotations

from typing import Any

from grounddecode import registry, schema


def json_schema() -> dict[str, Any]:
    """JSON schema of what a request may say, derived from the registry."""
    methods = [_schema(name) for name in registry.names()]
    none = {"type": "object", "properties": {"method": {"const": "none"}}, "required": ["method"]}
    one = {"oneOf": [none | {"additionalProperties": False}, *methods]}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "grounddecode: methods of one request",
        "description": 'offline: extra_args={"grounddecode": ...}; over HTTP the same as JSON text: '
        'vllm_xargs={"grounddecode": "..."}. A list composes methods in its order.',
        "oneOf": [one, {"type": "array", "items": one}],
    }


def _schema(name: str) -> dict[str, Any]:
    cls = registry.method_class(name)
    properties = {"method": {"const": name}} | schema.properties(cls)
    return {
        "type": "object",
        "description": f"{cls.summary}; {cls.paper}",
        "properties": properties,
        "required": ["method"],
        "additionalProperties": False,
    }
