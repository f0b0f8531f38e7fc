"""Loading without side effects: nothing on stderr, no global random state moved."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

_ONE_AT_A_TIME = threading.RLock()  # the switches are global: two threads would restore each other's


@contextlib.contextmanager
def quiet(*, downloads: bool = False) -> Iterator[None]:
    """Silence transformers and the hub client; put their switches and torch's random state back afterwards.

    Building a model initialises weights, which draws from torch's global generator even when they are
    overwritten at once. `downloads` leaves the hub client's download bars as they were.
    """
    import huggingface_hub.utils
    import torch
    from transformers.utils import logging as transformers_logging

    hub: Any = huggingface_hub.utils
    log: Any = transformers_logging
    with _ONE_AT_A_TIME, torch.random.fork_rng(devices=[]):
        level, hub_level = log.get_verbosity(), hub.logging.get_verbosity()
        bars, hub_bars = log.is_progress_bar_enabled(), not hub.are_progress_bars_disabled()
        log.set_verbosity_error()
        hub.logging.set_verbosity_error()
        log.disable_progress_bar()  # and the hub's with them
        if downloads and hub_bars:
            hub.enable_progress_bars()
        try:
            yield
        finally:
            log.set_verbosity(level)
            hub.logging.set_verbosity(hub_level)
            if bars:
                log.enable_progress_bar()
            (hub.enable_progress_bars if hub_bars else hub.disable_progress_bars)()
