"""Settings keys as people read them: what a key means, what it may be, what its default is."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined


@dataclass(frozen=True, slots=True)
class Key:
    """One key of the settings."""

    key: str  # dotted
    words: str  # "number, above 0"
    default: Any  # None where it has none
    required: bool
    meaning: str


def keys_of(model: type[BaseModel], values: BaseModel | None = None, prefix: str = "") -> Iterator[Key]:
    """Yield every key of a settings class; of a table that may be of several kinds, the one that `values` has."""
    for name, field in model.model_fields.items():
        value = getattr(values, name, None)
        section = _section(field, value)
        if section:
            yield from keys_of(section, value if isinstance(value, BaseModel) else None, f"{prefix}{name}.")
            continue
        default = field.get_default(call_default_factory=True)
        yield Key(
            f"{prefix}{name}",
            type_words(field.annotation, field.metadata),
            None if default is PydanticUndefined else default,
            field.is_required(),
            " ".join((field.description or "").split()),
        )


def _section(field: FieldInfo, value: object) -> type[BaseModel] | None:
    if isinstance(value, BaseModel):
        return type(value)
    hints = typing.get_args(field.annotation) if field.discriminator else (field.annotation,)
    return next((hint for hint in hints if isinstance(hint, type) and issubclass(hint, BaseModel)), None)


def type_words(hint: Any, bounds: Sequence[Any] = ()) -> str:
    """Return an annotation in words: "whole number, 1 or more", "fp32 or bf16", "list of text"."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return type_words(inner[0], [*bounds, *inner[1:]])
    if origin in (typing.Union, types.UnionType):
        some = [one for one in inner if one is not types.NoneType]
        return " or ".join(type_words(one, bounds) for one in some)
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in inner)
    if origin is tuple and inner[-1] is not Ellipsis:
        return f"{len(inner)} of: {type_words(inner[0])}"
    if origin in (list, tuple):
        return f"list of {type_words(inner[0])}"
    if isinstance(hint, type) and issubclass(hint, BaseModel):
        return "table of " + ", ".join(f"`{name}`" for name in hint.model_fields)
    words = {int: "whole number", float: "number", str: "text", bool: "true or false", Path: "path"}.get(
        hint, str(hint)
    )
    limits = _limits(bounds)
    return f"{words}, {limits}" if limits else words


def _limits(bounds: Sequence[Any]) -> str:
    found: dict[str, Any] = {}
    for bound in bounds:
        for one in (bound, *getattr(bound, "metadata", ())):
            for name in ("ge", "gt", "le", "lt", "min", "max"):
                value = getattr(one, name, None)
                if isinstance(value, int | float):
                    found[name] = value
    texts = {"ge": "{:g} or more", "min": "{:g} or more", "gt": "above {:g}"}
    texts |= {"le": "at most {:g}", "max": "at most {:g}", "lt": "below {:g}"}
    return ", ".join(text.format(found[name]) for name, text in texts.items() if name in found)
