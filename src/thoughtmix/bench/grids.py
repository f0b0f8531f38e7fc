"""The grid of settings that each system may try: built in, from a file, or at the same KL as a sampler's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thoughtmix.bench.systems import get_system
from thoughtmix.bench.trials import Setting
from thoughtmix.core.errors import InputError
from thoughtmix.core.files import bounded_text, parse_json

if TYPE_CHECKING:
    from torch import Tensor

    from thoughtmix.bench.config import Models
    from thoughtmix.bench.tasks import Item
    from thoughtmix.engine import SamplingParams
    from thoughtmix.models import LanguageModel

COLDEST, HOTTEST = 0.05, 5.0
STEPS = 24  # tokens looked at in each prompt's continuation
PROMPTS = 6  # prompts looked at


def build_grids(
    names: Sequence[str], count: int, file: Path | None, models: Models, items: Sequence[Item]
) -> dict[str, Sequence[Setting]]:
    """The grid of each system, `count` settings long.

    Args:
        file: JSON with a list of settings by system, which comes before the built-in ones.
        models: loads the model on which the grids of the `same-kl` systems are measured.
        items: development items, along which they are measured.

    Raises:
        InputError: for a file that is no such JSON or names others, and for grids of unequal length.
    """
    if count < 1:
        raise InputError(f"{count} settings.", "Pass --settings 1 or more.")
    given = _load_grids(file) if file is not None else {}
    if unused := sorted(set(given) - set(names)):
        raise InputError(f"{file} has settings for {unused[0]!r}, who does not take part.", "Add it to --thinkers.")
    out: dict[str, Sequence[Setting]] = {}
    for system in map(get_system, names):
        grid = given.get(system.name) or system.grid(count)
        if system.same_kl and system.name not in given:
            grid = same_kl_grid(models.pipeline().model, [item.prompt for item in items[:PROMPTS]], grid)
        out[system.name] = grid
    check_equal_lengths(out)
    return out


def _load_grids(file: Path) -> dict[str, list[dict[str, Any]]]:
    hint = 'Write {"mixture": [{"creativity": 0.5}, {"creativity": 1}]}.'
    try:
        body = parse_json(bounded_text(file))
    except (OSError, ValueError) as error:
        raise InputError(f"Cannot read the settings: {error}.", hint) from None
    good = isinstance(body, dict) and all(
        isinstance(rows, list) and rows and all(isinstance(row, dict) for row in rows) for rows in body.values()
    )
    if not good:
        raise InputError(f"{file} is no JSON object with a list of settings by thinker.", hint)
    return body


def check_equal_lengths(grids: Mapping[str, Sequence[Setting]]) -> None:
    """Everyone gets the same number of tries. Raises `InputError` when one grid is longer than another."""
    lengths = {name: len(grid) for name, grid in grids.items()}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{name} has {count}" for name, count in lengths.items())
        raise InputError(f"Unequal numbers of settings: {told}.", "Give every thinker the same number.")


def same_kl_grid(lm: LanguageModel, prompts: Sequence[str], grid: Sequence[Setting]) -> list[Setting]:
    """For each setting of a sampler, plain temperature at the same KL, measured along the model's own text."""
    from thoughtmix.engine import SamplingParams
    from thoughtmix.engine.requests import DEFAULT_MIN_P

    logits = own_logits(lm, prompts)
    matched = [same_kl_temperature(logits, SamplingParams(**{"min_p": DEFAULT_MIN_P, **setting})) for setting in grid]
    return [{"min_p": 0.0, "temperature": round(t, 4)} for t in matched]


def own_logits(lm: LanguageModel, prompts: Sequence[str], seed: int = 0) -> Tensor:
    """(tokens, vocabulary) float64 logits of the model along its own samples at temperature 1.

    This is where samplers are compared.
    """
    import torch

    from thoughtmix.engine import LocalEngine, SequenceRequest
    from thoughtmix.models.encoder_decoder import answer_logits

    parts = []
    for i, prompt in enumerate(prompts):
        ids = lm.encode(prompt)
        asked = SequenceRequest(tuple(ids), seed + i, max_new_tokens=STEPS, end_ids=frozenset())
        own = LocalEngine(lm).generate([asked]).outputs[0].token_ids
        with torch.no_grad():
            parts.append(answer_logits(lm.model, ids, torch.tensor([own], device=lm.device))[0].double())
    return torch.cat(parts)


def kl_divergence(logits: Tensor, sampler: SamplingParams) -> tuple[float, float]:
    """How far a sampler is from the model's own distribution.

    Args:
        logits: (tokens, vocabulary), over whose rows both results are means.

    Returns:
        KL(sampler || model) in nats a token, and by how much the mean log-probability of a drawn token exceeds that of
        the model's own draws. Where that is positive, the sampler is the more careful one.
    """
    import torch

    from thoughtmix.engine.sampling import SamplingTensors, truncated

    own = logits.log_softmax(-1)
    batch = SamplingTensors.of([sampler] * len(logits), logits.device)
    kept = truncated(logits, batch) > -torch.inf
    tempered = (logits - logits.amax(-1, keepdim=True)) / batch.temperature[:, None]
    drawn = torch.where(kept, tempered, -torch.inf).log_softmax(-1)
    p = drawn.exp()
    kl = torch.where(p > 0, p * (drawn - own), 0.0).sum(-1).mean()
    shift = (p * own).sum(-1).mean() - (own.exp() * own).sum(-1).mean()
    return float(kl), float(shift)


def same_kl_temperature(logits: Tensor, sampler: SamplingParams) -> float:
    """The temperature whose KL to the model equals the sampler's, within 0.05 to 5.

    It is below 1 for a more careful sampler and above 1 for a bolder one. Found by bisection, since the KL grows with
    the distance from 1.
    """
    from thoughtmix.engine import SamplingParams

    target, shift = kl_divergence(logits, sampler)
    near, far = (1.0, COLDEST) if shift >= 0 else (1.0, HOTTEST)
    for _ in range(40):
        middle = (near + far) / 2
        if kl_divergence(logits, SamplingParams(temperature=middle))[0] < target:
            near = middle
        else:
            far = middle
    return (near + far) / 2
