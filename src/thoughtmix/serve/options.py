"""Which of a thinker's own options a request may use, and how far: what its `Options` declare, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from thoughtmix.core.errors import UnknownName
from thoughtmix.core.options import ThinkerOptions, parse_options, served_schema
from thoughtmix.serve.errors import Refused
from thoughtmix.serve.limits import Limits
from thoughtmix.thinkers.base import Thinker


def served_options(thinker: Thinker, given: Mapping[str, Any], limits: Limits) -> ThinkerOptions:
    """The thinker's options of a request.

    Raises:
        UnknownName: A name that is no option.
        Refused: 400 for an option that is not declared safe for requests, or a value beyond the server's limits.
        InputError: A value of another type or beyond the option's own bounds.
    """
    fields = thinker.Options.model_fields
    offered = served_schema(thinker.Options)["properties"]
    for name, value in given.items():
        if name not in fields:
            raise UnknownName(f"option of thinker {thinker.name!r}:", name[:80], offered)
        if name not in offered:
            known = f"Offered: {', '.join(offered)}." if offered else "This thinker offers none."
            raise Refused(400, f"The option {name} is not for requests. {known}", param="options")
        rules = fields[name].json_schema_extra
        assert isinstance(rules, dict)
        _check_pattern(name, value, rules.get("served_pattern"))
    options = parse_options(thinker.Options, given, thinker.name)
    for name in given:
        rules = fields[name].json_schema_extra
        bound = rules.get("served_max") if isinstance(rules, dict) else None
        most = {"thoughts": limits.thoughts, "tokens": limits.tokens}.get(str(bound))
        value = getattr(options, name)
        if most is not None and value is not None and value > most:
            raise Refused(400, f"{name} is {value}, this server takes up to {most}.", param="options")
    return options


def _check_pattern(name: str, value: Any, pattern: Any) -> None:
    texts = [part.strip() for part in value.split(",")] if isinstance(value, str) else value
    if pattern is None or not isinstance(texts, list):
        return
    for text in texts:
        if not isinstance(text, str) or re.fullmatch(str(pattern), text) is None:
            raise Refused(400, f"{name} is {str(text)[:40]!r}: that is not for requests.", param="options")
