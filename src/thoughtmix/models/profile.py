"""An endpoint by its address, or by the name of a profile in the config file."""

from __future__ import annotations

from typing import Any

from thoughtmix.core.config import Profile
from thoughtmix.models.endpoint import Endpoint


def connect(where: str, model: str | None = None, *, key: str | None = None, **settings: Any) -> Endpoint:
    """The endpoint at a URL, or of a profile ("@name").

    Args:
        where: http://host:port, or @name.
        model: Its name there; None: the profile's, else the first that the server lists.
        key: As in `Endpoint`; what the profile names goes before "".
        settings: Of `Endpoint`; None leaves the choice to the profile. `api_key_env`, `key_over_http`, `prices`,
            `concurrency`, `timeout` and `retries` are named as in a profile.

    Raises:
        InputError: No address, no such profile, or a key that may not be sent there.
    """
    profile = Profile.named(where[1:]) if where.startswith("@") else Profile(url=where)
    given = {name: value for name, value in settings.items() if value is not None}
    for name in ("api_key_env", "prices", "concurrency", "timeout", "retries"):
        value = getattr(profile, name)
        if value is not None:
            given.setdefault(name, value)
    if "retries" in given:
        given["tries"] = given.pop("retries") + 1
    key_env = given.pop("api_key_env", None)
    over_http = given.pop("key_over_http", False) or profile.key_over_http
    if not key and settings.get("api_key_env") is None:
        key = profile.api_key or (None if profile.api_key_env else key)
    return Endpoint(profile.url, model or profile.model, key=key, key_env=key_env, key_over_http=over_http, **given)
