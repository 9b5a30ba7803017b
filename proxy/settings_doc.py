"""Writes docs/settings.md from settings.py: `python -m proxy.settings_doc > docs/settings.md`."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from proxy.settings import Settings

HEAD = """\
# Settings

Made from `proxy/settings.py` by `python -m proxy.settings_doc`; change it there.

`joulegate serve` takes settings from a YAML file (`--config`, or `joulegate.yaml` in the working directory),
over it from environment variables, over both from its options. Unknown names and bad values are all reported
at once, each with its path, and nothing is started. (An environment variable whose first part is no setting
is passed over: others may use the prefix.)

In the environment the parts of a name are joined by two underscores: `JOULEGATE_TIMEOUTS__IDLE_S=30`. Lists
are JSON there: `JOULEGATE_BACKENDS='[{"id": "llama", "url": "http://127.0.0.1:8000"}]'`.

The shortest file:

```yaml
backends:
  - id: llama
    url: http://127.0.0.1:8000
```

| setting | type | default | meaning |
|---|---|---|---|
"""


def rows(model: type[BaseModel] = Settings, prefix: str = "") -> Iterator[tuple[str, str, str, str]]:
    """Path, type, default and meaning of every setting; `[]` marks an item of a list."""
    for name, field in model.model_fields.items():
        inner, many = _group(field.annotation)
        path = f"{prefix}{name}"
        if inner is None or many:
            yield path, _type(field.annotation), _default(field), field.description or ""
        if inner is not None:
            yield from rows(inner, f"{path}[]." if many else f"{path}.")


def _group(annotation: Any) -> tuple[type[BaseModel] | None, bool]:
    """The group of settings behind a type, and whether there is a list of them."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, False
    for part in get_args(annotation):
        inner, many = _group(part)
        if inner is not None:
            return inner, many or get_origin(annotation) is list
    return None, False


def _type(annotation: Any) -> str:
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        return " or ".join(_type(part) for part in parts if part is not type(None))
    if origin is Literal:
        return " or ".join(f"`{part}`" for part in parts)
    if origin is dict:
        return f"{_type(parts[1])} by name"
    if origin is list:
        return f"list of {_type(parts[0])}"
    if origin is Annotated:
        return _type(parts[0])
    names = {str: "text", int: "integer", float: "number", bool: "true or false", Path: "path"}
    names[Decimal], names[SecretStr] = "number", "secret text"
    if annotation in names:
        return names[annotation]
    return "settings" if _group(annotation)[0] is not None else "URL"


def _default(field: FieldInfo) -> str:
    if field.default is PydanticUndefined:
        return "required"
    if field.default is None:
        return ""
    text = str(field.default).lower() if isinstance(field.default, bool) else str(field.default)
    return f"`{text}`"


def document() -> str:
    """The whole of docs/settings.md."""
    lines = [f"| `{path}` | {kind} | {default} | {meaning} |\n" for path, kind, default, meaning in rows()]
    return HEAD + "".join(lines)


if __name__ == "__main__":
    print(document(), end="")
