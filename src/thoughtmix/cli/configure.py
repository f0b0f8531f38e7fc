"""`thoughtmix config`: the settings that stay."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import tomllib
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from thoughtmix.cli.app import app, group
from thoughtmix.cli.options import Json
from thoughtmix.cli.output import print_json
from thoughtmix.core.config import ENDPOINTS, Profile, config_path, read_config, write_setting
from thoughtmix.core.errors import InputError, UnknownName

config = group("config", "Settings that stay: a flag goes before its environment variable, that before this file.")
app.add_typer(config)
Key = Annotated[str, typer.Argument(help="n, think.thinker, endpoints.NAME.url, ...", show_default=False)]


@config.command("show")
def show_config(json: Json = False) -> None:
    """What is set. Keys are not shown."""
    settings = _without_keys(read_config())
    if json:
        print_json({"file": str(config_path()), "settings": settings})
        return
    print(f"# {config_path()}{'' if settings else ' (nothing is set)'}")
    for key, value in _flat(settings):
        print(f"{key} = {_toml(value)}")


@config.command("path")
def path() -> None:
    """Where the file is. THOUGHTMIX_CONFIG names another."""
    print(config_path())


@config.command("set")
def set_config(
    key: Key, value: Annotated[str, typer.Argument(help="As TOML (0.7, true, [0.15, 0.6]); else a text.")]
) -> None:
    """Write one setting. The file's other lines stay."""
    _known(key)
    try:
        read: Any = tomllib.loads(f"value = {value}")["value"]
    except ValueError:
        read = value
    if key.startswith(f"{ENDPOINTS}."):
        _, name, own = key.split(".")
        known = read_config().get(ENDPOINTS, {}).get(name, {})
        Profile.parse(name, {"url": "http://localhost", **known, own: read})
    print(f"Wrote {write_setting(key, read)}")


@config.command("unset")
def unset(key: Key) -> None:
    """Remove one setting."""
    print(f"Wrote {write_setting(key, None)}")


@config.command("edit")
def edit() -> int:
    """Open the file in $VISUAL or $EDITOR."""
    file = config_path()
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR")
    if not editor:
        raise InputError("No editor is named.", f"Type: EDITOR=nano thoughtmix config edit, or edit {file}")
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        code = subprocess.run([*shlex.split(editor), str(file)], check=False).returncode
    except OSError as error:
        raise InputError(f"Cannot run {editor}: {error.strerror}.", "Name another: EDITOR=nano") from None
    read_config()
    return code


def _known(key: str) -> None:
    """Raises `UnknownName`, `InputError` for a key that nothing reads."""
    from thoughtmix.cli.settings import setting_keys

    words = key.split(".")
    if words[0] == ENDPOINTS:
        if len(words) != 3 or not words[1]:
            raise InputError(
                f"{key} is no setting of a profile.", f"Type: thoughtmix config set {ENDPOINTS}.NAME.url URL"
            )
        return
    if words[0] == "think" and len(words) == 2:
        return  # of whichever thinker is named
    keys = {".".join(path) for path in setting_keys(typer.main.get_command(app))}
    if key not in keys:
        raise UnknownName("setting", key, keys)


def _without_keys(settings: dict[str, Any]) -> dict[str, Any]:
    profiles = settings.get(ENDPOINTS)
    if not isinstance(profiles, Mapping):
        return settings
    hidden = {
        name: {k: "(hidden)" if k == "api_key" else v for k, v in profile.items()}
        if isinstance(profile, Mapping)
        else profile
        for name, profile in profiles.items()
    }
    return {**settings, ENDPOINTS: hidden}


def _flat(settings: Mapping[str, Any], before: str = "") -> list[tuple[str, Any]]:
    out: list[tuple[str, Any]] = []
    for name, value in settings.items():
        if isinstance(value, Mapping):
            out += _flat(value, f"{before}{name}.")
        else:
            out.append((f"{before}{name}", value))
    return out


def _toml(value: Any) -> str:
    """JSON is TOML for all that settings are made of; dates are not among it."""
    return json.dumps(value, ensure_ascii=False, default=str)
