"""Loading without side effects: no progress bars on stderr, no global random state moved."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers and put its switches and torch's random state back afterwards.

    Building a model initialises weights, which draws from torch's global generator even when they are
    overwritten at once.
    """
    import torch
    from transformers.utils import logging

    level = logging.get_verbosity()
    bars = logging.is_progress_bar_enabled()
    with torch.random.fork_rng(devices=[]):
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        try:
            yield
        finally:
            logging.set_verbosity(level)
            if bars:
                logging.enable_progress_bar()
