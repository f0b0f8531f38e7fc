"""Shared fixtures. Tests that need the default model are marked `model`; all others are offline."""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch


@pytest.fixture
def global_state_untouched() -> Iterator[None]:
    """Fails when the code under test reads or moves a global random state, or leaves a global torch flag changed."""

    def snapshot() -> tuple[object, ...]:
        return (
            torch.get_rng_state().tolist(),
            np.random.get_state()[1].tolist(),  # noqa: NPY002  the legacy state is what must not move
            random.getstate(),
            torch.get_num_threads(),
            torch.get_default_dtype(),
            torch.is_grad_enabled(),
            torch.are_deterministic_algorithms_enabled(),
        )

    before = snapshot()
    yield
    assert snapshot() == before
