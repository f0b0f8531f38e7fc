"""Where an endpoint is, and which key may be sent there."""

from __future__ import annotations

import ipaddress
import os
from urllib.parse import SplitResult, urlsplit

from thoughtmix.core.errors import InputError
from thoughtmix.models.trouble import KEY

OPENAI = "api.openai.com"
OPENAI_KEY = "OPENAI_API_KEY"
_HINT = "Pass --endpoint http://localhost:8000/v1"


def base_url(url: str) -> str:
    """http://host:port/v1, whichever part of it was given. Raises `InputError`."""
    parts = urlsplit(url.strip())
    try:
        known = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number
        known = False
    if not known:
        raise InputError(f"The endpoint {url!r} is no http address.", _HINT)
    if parts.username or parts.password or parts.query or parts.fragment:
        raise InputError("An endpoint's address holds no user, password or query.", f"{_HINT}; the key: {KEY}.")
    path = parts.path.rstrip("/")
    for tail in ("/chat/completions", "/completions", "/embeddings", "/models"):
        path = path.removesuffix(tail)
    return f"{parts.scheme}://{parts.netloc}{path or '/v1'}"


def is_openai(base: str) -> bool:
    """Whether what the environment holds for OpenAI is for this address: OpenAI's own, or the one that the user named
    for that key (OPENAI_BASE_URL)."""
    here = urlsplit(base)
    if here.hostname == OPENAI:
        return True
    theirs = urlsplit(os.environ.get("OPENAI_BASE_URL", "").strip())
    return bool(theirs.hostname) and _origin(here) == _origin(theirs)


def find_key(base: str, key: str | None = None, key_env: str | None = None, over_http: bool = False) -> str | None:
    """The key for this address; None: none is sent.

    Args:
        base: As `base_url` gives it.
        key: Named by the caller; "": THOUGHTMIX_API_KEY is for another endpoint of this call.
        key_env: The environment variable that holds it. Without either: THOUGHTMIX_API_KEY, and OPENAI_API_KEY where it
            is for this address.
        over_http: The user has said that it may go over plain http to another machine.

    Raises:
        InputError: The variable holds nothing, or the key would go over plain http to another machine.
    """
    address = urlsplit(base)
    named = key_env or KEY
    if key is None and key_env is not None:
        key = os.environ.get(key_env, "").strip()
        if not key:
            raise InputError(f"The environment variable {key_env} holds no key.", f"Type: export {key_env}=...")
    if key is None:
        key = os.environ.get(KEY)
    if not key and is_openai(base):
        key, named = os.environ.get(OPENAI_KEY), OPENAI_KEY
    if key and address.scheme == "http" and not over_http and not _is_this_machine(str(address.hostname)):
        raise InputError(
            f"A key is not sent to {address.hostname} over plain http.",
            f"Pass an https:// address, unset {named}, or allow it: --key-over-http.",
        )
    return key or None


def _origin(address: SplitResult) -> tuple[str, str | None, int | None]:
    return address.scheme, address.hostname, address.port or {"http": 80, "https": 443}.get(address.scheme)


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
