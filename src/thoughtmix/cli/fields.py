"""Commands whose options are the fields of a dataclass."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

Options = TypeVar("Options")


def with_options(options: type[Options]) -> Callable[[Callable[[Options], int]], Callable[..., int]]:
    """Decorate a function of one dataclass, so that Typer sees the dataclass's fields as its parameters."""

    def decorate(command: Callable[[Options], int]) -> Callable[..., int]:
        @functools.wraps(command)
        def filled(**given: Any) -> int:
            return command(options(**given))

        filled.__signature__ = inspect.signature(options, eval_str=True)  # type: ignore[attr-defined]
        filled.__annotations__ = {}  # Typer would prefer them to the signature
        return filled

    return decorate
