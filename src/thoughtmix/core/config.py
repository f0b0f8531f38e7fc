"""The user's config file: settings by their names, and profiles of endpoints. No torch here.

    model = "org/name"                 # a setting that commands share
    max_new_tokens = 128

    [think]                            # of one command
    thinker = "noise"

    [endpoints.big]                    # thoughtmix think "..." -e @big
    url = "https://api.example.com/v1"
    model = "big-1"
    api_key_env = "BIG_KEY"

Read anew where it is needed; nothing keeps it.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from thoughtmix.core.errors import InputError, UnknownName
from thoughtmix.core.files import bounded_text, write_whole, writing

ENDPOINTS = "endpoints"
_FILE = "THOUGHTMIX_CONFIG"


def config_path() -> Path:
    """THOUGHTMIX_CONFIG, else `config.toml` in the platform's folder for it (~/.config/thoughtmix on Linux)."""
    named = os.environ.get(_FILE)
    if named:
        return Path(named).expanduser()
    import platformdirs

    return platformdirs.user_config_path("thoughtmix", appauthor=False) / "config.toml"


def read_config(path: Path | None = None) -> dict[str, Any]:
    """What the file holds; {} where there is none. Raises `InputError` where it cannot be read."""
    path = config_path() if path is None else path
    try:
        return tomllib.loads(bounded_text(path))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise InputError(f"Cannot read {path}: {error}.", "Mend it: thoughtmix config edit") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """An endpoint by name, as the config file has it. None: the default, or what the command line says."""

    url: str
    model: str | None = None
    api_key_env: str | None = None
    api_key: str | None = None
    key_over_http: bool = False
    prices: tuple[float, float] | None = None
    concurrency: int | None = None
    timeout: float | None = None
    retries: int | None = None

    @classmethod
    def named(cls, name: str) -> Profile:
        """Of the config file.

        Raises:
            UnknownName: There is no such profile.
            InputError: It is not written as it should be.
        """
        profiles = read_config().get(ENDPOINTS, {})
        if not isinstance(profiles, Mapping) or name not in profiles:
            if not profiles:
                raise InputError(
                    f"There is no profile {name!r}: the config file names none.",
                    f"Type: thoughtmix config set {ENDPOINTS}.{name}.url http://localhost:8000",
                )
            raise UnknownName("profile", name, profiles)
        return cls.parse(name, profiles[name])

    @classmethod
    def parse(cls, name: str, given: Any) -> Profile:
        """A table of the file. Raises `InputError`."""
        hint = "Mend it: thoughtmix config edit"
        known = [f.name for f in fields(cls)]
        if not isinstance(given, Mapping) or not isinstance(given.get("url"), str):
            raise InputError(f"The profile {name!r} has no url.", hint)
        for key in given:
            if key not in known:
                raise UnknownName(f"setting of profile {name!r}:", key, known)
        for key, value in given.items():
            if not _fits(key, value):
                raise InputError(f"{ENDPOINTS}.{name}.{key} is {value!r}.", hint)
        prices = given.get("prices")
        return cls(**{**given, "prices": None if prices is None else (float(prices[0]), float(prices[1]))})


def _fits(key: str, value: Any) -> bool:
    if key == "prices":
        numbers = isinstance(value, list) and all(isinstance(v, (int, float)) and v >= 0 for v in value)
        return numbers and len(value) == 2
    if key == "key_over_http":
        return isinstance(value, bool)
    if key in {"concurrency", "retries"}:
        return isinstance(value, int) and not isinstance(value, bool) and value >= 0
    if key == "timeout":
        return isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0
    return isinstance(value, str) and bool(value)


def write_setting(key: str, value: Any) -> Path:
    """Set `key` ("n", "think.thinker", "endpoints.big.url") in the file, whose other lines and comments stay; None
    removes it. A new file is readable by its owner alone: it may hold keys.

    Returns:
        The file.

    Raises:
        InputError: It cannot be read or written, or the key goes through something that is no table.
    """
    import tomlkit
    from tomlkit.items import Table

    path = config_path()
    read_config(path)  # a file that is broken is not written over
    document = tomlkit.parse(bounded_text(path)) if path.exists() else tomlkit.document()
    *tables, last = key.split(".")
    at: Any = document
    for i, table in enumerate(tables):
        if table not in at:
            at[table] = tomlkit.table(is_super_table=i < len(tables) - 1)
        at = at[table]
        if not isinstance(at, Table):
            raise InputError(f"{key}: {table} is no table.", "See: thoughtmix config")
    if value is None:
        if last not in at:
            raise InputError(f"{key} is not set in {path}.", "See: thoughtmix config")
        del at[last]
    else:
        at[last] = value
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.touch(mode=0o600)
    write_whole(path, tomlkit.dumps(document))
    return path
