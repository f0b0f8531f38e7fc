"""Fields of a saved set as it is read back: each of the kind that it must be, or one line that says where it is not."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from thoughtmix.core.errors import InputError

HINT = "Write one with: thoughtmix think PROMPT --json > thoughts.json"


def kind_of(value: Any) -> str:
    return {type(None): "null", dict: "an object", list: "a list", str: "a text"}.get(type(value), repr(value)[:40])


def as_list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, (list, tuple)):
        raise InputError(f"{where} must be a list, not {kind_of(value)}.", HINT)
    return list(value)


def list_field(body: Mapping[str, Any], key: str) -> list[Any]:
    return as_list(body.get(key, []), key)


def text_field(body: Mapping[str, Any], key: str, where: str = "") -> str:
    value = body.get(key)
    if not isinstance(value, str):
        raise InputError(f"{where}{key} must be a text, not {kind_of(value)}.", HINT)
    return value


def mapping_field(body: Mapping[str, Any], key: str, where: str = "") -> dict[str, Any]:
    value = body.get(key, {})
    if not isinstance(value, Mapping):
        raise InputError(f"{where}{key} must be an object, not {kind_of(value)}.", HINT)
    return dict(value)


def number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InputError(f"{where} must hold numbers, not {kind_of(value)}.", HINT)
    try:
        made = float(value)
    except OverflowError:
        made = math.inf
    if not math.isfinite(made):
        raise InputError(f"{where} must hold finite numbers.", HINT)
    return made


def integer(value: Any, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InputError(f"{where} must be a whole number, not {kind_of(value)}.", HINT)
    return value


def numbers_field(body: Mapping[str, Any], key: str, where: str = "") -> dict[str, float]:
    return {name: number(v, f"{where}{key}.{name}") for name, v in mapping_field(body, key, where).items()}
