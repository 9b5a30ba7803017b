"""Writes the API reference: every route, parameter and field of joulegate's own surface, from its OpenAPI.

Use: python -m proxy.openapi_doc
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from proxy.app import create_app
from proxy.settings import Settings

HEAD = """\
# API reference

Made from the OpenAPI document, which a running joulegate serves at `/openapi.json`. What it all means, and
the routes that go to the engine: [API](api.md).
"""
NAMES = {"openai": "OpenAI's"}


def document() -> dict[str, Any]:
    """Of a proxy with two engines, as one alone tells its models itself, and with keys."""
    backends = [{"id": name, "url": "http://127.0.0.1:9"} for name in ("one", "two")]
    settings = Settings.model_validate({"backends": backends, "access": {"enabled": True}})
    return create_app(settings, [], version="0").openapi()


def page(openapi: Mapping[str, Any]) -> str:
    """The page in Markdown."""
    lines = [HEAD]
    ways = [(path, way, told) for path, all_of in openapi["paths"].items() for way, told in all_of.items()]
    tags = dict.fromkeys(tag for _, _, told in ways for tag in told.get("tags", ["other"]))
    for tag in tags:
        lines += [f"## {NAMES.get(tag, tag.capitalize())}", ""]
        for path, way, told in ways:
            if tag in told.get("tags", ["other"]):
                lines += _route(path, way, told)
    lines += ["## Objects", ""]
    for name, schema in sorted(openapi["components"]["schemas"].items()):
        lines += _object(name, schema)
    return "\n".join(lines).rstrip() + "\n"


def _route(path: str, way: str, told: Mapping[str, Any]) -> Iterator[str]:
    yield f"### `{way.upper()} {path}`"
    yield ""
    yield _text(told.get("description", told.get("summary", "")))
    yield ""
    if told.get("parameters"):
        yield "| parameter | in | type | meaning |"
        yield "|---|---|---|---|"
        for one in told["parameters"]:
            meaning = _text(one.get("description", ""))
            if one.get("required"):
                meaning = f"required. {meaning}".strip()
            elif "default" in one["schema"]:
                meaning = f"{meaning} Without: `{one['schema']['default']}`.".strip()
            yield f"| `{one['name']}` | {one['in']} | {kind(one['schema'])} | {meaning} |"
        yield ""
    if "requestBody" in told:
        yield f"Body: {_content(told['requestBody'])}"
        yield ""
    answers = [
        f"{status}: {_content(answer) or _text(answer['description'])}"
        for status, answer in told["responses"].items()
    ]
    yield f"Answers: {'; '.join(answers)}"
    yield ""


def _content(told: Mapping[str, Any]) -> str:
    kinds = [kind(one["schema"]) for one in told.get("content", {}).values() if one.get("schema")]
    return ", ".join(kinds)


def _object(name: str, schema: Mapping[str, Any]) -> Iterator[str]:
    yield f"### {name}"
    yield ""
    if text := _text(schema.get("description", "")):
        yield text
        yield ""
    if not schema.get("properties"):
        return
    yield "| field | type | meaning |"
    yield "|---|---|---|"
    for field, told in schema["properties"].items():
        yield f"| `{field}` | {kind(told)} | {_text(told.get('description', ''))} |"
    yield ""


def kind(schema: Mapping[str, Any]) -> str:
    """A type as people read it; objects are links."""
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[1]
        return f"[{name}](#{name.lower()})"
    for several in ("anyOf", "oneOf", "allOf"):
        if several in schema:
            return " or ".join(kind(one) for one in schema[several])
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return ", ".join(f"`{one}`" for one in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {kind(schema.get('items', {}))}"
    return str(schema.get("type", "anything"))


def _text(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip().replace("|", "\\|")


if __name__ == "__main__":
    print(page(document()), end="")
