"""Where an option's value comes from: flag, then environment variable, then config file, then default.

Every option `--some-name` of a command `x` has the variable THOUGHTMIX_X_SOME_NAME and the key `some_name` in the table
`[x]` of the config file. Those that the commands for thinking share (`SHARED`) also have THOUGHTMIX_SOME_NAME and a key
at the top of the file.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from thoughtmix.cli.options import OutputOptions, SamplingOptions, SelectionOptions
from thoughtmix.cli.remote import EngineOptions
from thoughtmix.cli.renamed import RENAMED
from thoughtmix.core.config import ENDPOINTS, read_config
from thoughtmix.core.errors import InputError, UnknownName

PREFIX = "THOUGHTMIX"
SHARED = frozenset(
    {
        f.name
        for group in (SamplingOptions, EngineOptions, OutputOptions, SelectionOptions)
        for f in dataclasses.fields(group)
    }
    | {"model", "thinker", "system"}
)
_NOT_SET = frozenset({"help", "version", "install_completion", "show_completion"})


def bind(command: Any, path: tuple[str, ...] = ()) -> Any:
    """Give the options of a command, and of all below it, their environment variables. Returns it."""
    for parameter in _options(command):
        own = [_variable(*path, name) for name in dict.fromkeys(_names(path, parameter))]
        parameter.envvar = [*own, _variable(parameter.name)] if _is_shared(path, parameter.name) else own
        parameter.show_envvar = False  # one rule says them all
    for name, below in getattr(command, "commands", {}).items():
        bind(below, (*path, name))
    return command


def defaults(command: Any) -> dict[str, Any]:
    """The config file as defaults of a command and of those below it, as Click takes them.

    Raises:
        UnknownName: The file has a setting or a table that nothing has, with the nearest one that exists.
        InputError: It cannot be read.
    """
    config = read_config()
    top = {name: value for name, value in config.items() if not isinstance(value, Mapping)}
    known = {key[0] for key in setting_keys(command) if len(key) == 1}
    for name in top:
        if name not in known:
            raise UnknownName("setting of the config file:", name, known)
    tables = {name: value for name, value in config.items() if name not in top and name != ENDPOINTS}
    return _defaults(command, top, tables, ())


def setting_keys(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The keys of the config file, as the tables that lead to them and their own name."""
    for parameter in _options(command):
        if _is_shared(path, parameter.name):
            yield (parameter.name,)
        yield (*path, parameter.name)
    for name, below in getattr(command, "commands", {}).items():
        yield from setting_keys(below, (*path, name))


def _defaults(command: Any, top: Mapping[str, Any], given: Mapping[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    commands = getattr(command, "commands", {})
    named = {name: p.name for p in _options(command) for name in _names(path, p)}
    options = set(named.values())
    out = {name: value for name, value in top.items() if name in options and _is_shared(path, name)}
    extra = path == ("think",)  # and whatever the thinker of the call has
    for name, value in given.items():
        name = named.get(name, name)
        if name in commands and isinstance(value, Mapping):
            continue
        if name not in options and not extra:
            where = f"[{'.'.join(path)}]" if path else "the config file"
            raise UnknownName(f"setting of {where}:", name, [*options, *commands])
        out[name] = value
    for name, below in commands.items():
        table = given.get(name, {})
        if not isinstance(table, Mapping):
            raise InputError(f"{name} is no table of the config file.", "Mend it: thoughtmix config edit")
        out[name] = _defaults(below, top, table, (*path, name))
    return out


def _names(path: tuple[str, ...], parameter: Any) -> list[str]:
    """What an option is called: in the program, by its long flags, and what those once were."""
    flags = [opt[2:].replace("-", "_") for opt in parameter.opts if opt.startswith("--")]
    names = [*flags, parameter.name]
    return [*names, *(old for old, now in RENAMED.get(path, {}).items() if now in names)]


def _options(command: Any) -> list[Any]:
    return [p for p in command.params if p.param_type_name == "option" and p.name not in _NOT_SET]


def _is_shared(path: tuple[str, ...], name: str) -> bool:
    """Whether a command's option is the one that all commands for thinking have."""
    return (path in {("think",), ("noise",), ("search",)} and name in SHARED) or name in {
        "model",
        "device",
        "dtype",
        "quiet",
    }


def _variable(*words: str) -> str:
    return "_".join([PREFIX, *(word.upper().replace("-", "_") for word in words)])
