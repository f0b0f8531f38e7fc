"""What a grammar costs a decoding step: 32 rows of the default model, held to a JSON schema of ten fields or free.

    python benchmarks/structured.py [--pairs 7] [--rows 32] [--tokens 64]

Held and free runs take turns (A B, B A, ...), so that a drift of the machine meets both; the ratio is the median over
pairs, with the smallest and largest beside it. Both draw exactly as many tokens: free rows ignore end tokens, and the
schema is long enough that no held row is whole before. Reading the tokens and compiling the schema come once per model
and are told apart; so is the time within the grammar itself.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from typing import Any

from thoughtmix.core.grammar import Grammar
from thoughtmix.core.request import Prompt
from thoughtmix.engine import loop
from thoughtmix.engine.engine import SequenceRequest
from thoughtmix.engine.local import LocalEngine
from thoughtmix.engine.sampling_params import SamplingParams
from thoughtmix.models import load_model

STREET = {"street": {"type": "string"}, "zip": {"type": "string", "pattern": "^[0-9]{5}$"}}
FIELDS: dict[str, Any] = {
    "name": {"type": "string", "minLength": 10},
    "age": {"type": "integer", "minimum": 0, "maximum": 150},
    "email": {"type": "string", "maxLength": 40},
    "score": {"type": "number"},
    "active": {"type": "boolean"},
    "kind": {"enum": ["red", "green", "blue"]},
    "tags": {"type": "array", "items": {"type": "string", "minLength": 10}, "minItems": 3, "maxItems": 6},
    "address": {"type": "object", "properties": STREET, "required": list(STREET)},
    "note": {"anyOf": [{"type": "string"}, {"type": "null"}]},
    "born": {"type": "string", "format": "date"},
}
SCHEMA = {"type": "object", "properties": FIELDS, "required": list(FIELDS)}
ASKED = Prompt("Describe a person as JSON with name, age, email, score, active, kind, tags, address, note and born.")
GOAL = 1.1


def sequences(rows: int, tokens: int, grammar: Grammar | None) -> list[SequenceRequest]:
    ends = frozenset[int]() if grammar is None else None
    how = SamplingParams(temperature=1.0, min_p=0.1)
    return [SequenceRequest(ASKED, seed, how, tokens, end_ids=ends, grammar=grammar) for seed in range(rows)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("pairs", 7), ("rows", 32), ("tokens", 64)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    lm = load_model(None)
    engine = LocalEngine(lm)
    began = time.perf_counter()
    _ = lm.grammars.tokens
    read = time.perf_counter() - began
    began = time.perf_counter()
    grammar = Grammar.from_json_schema(SCHEMA)
    lm.grammars.matcher(grammar)
    print(f"once: tokens read in {read:.2f} s, schema compiled in {1e3 * (time.perf_counter() - began):.1f} ms")
    within: list[float] = []
    _time_masks(within)

    def step(form: Grammar | None) -> tuple[float, float]:
        began = time.process_time()
        done = engine.generate(sequences(args.rows, args.tokens, form))
        drawn = [len(output.token_ids) for output in done.outputs]
        assert set(drawn) == {args.tokens}, f"a row ended early: {sorted(drawn)[0]} tokens"
        cpu = time.process_time() - began
        return (done.seconds - done.prefill_seconds) / args.tokens, cpu / args.tokens

    step(None), step(grammar)  # warm
    within.clear()
    pairs = []
    for i in range(args.pairs):
        turns: Sequence[Grammar | None] = (None, grammar) if i % 2 == 0 else (grammar, None)
        took = {form is not None: step(form) for form in turns}
        pairs.append((took[False], took[True]))
        (free, free_cpu), (held, held_cpu) = pairs[-1]
        wall, cpu = (f"free {1e3 * a:.2f}, held {1e3 * b:.2f}" for a, b in ((free, held), (free_cpu, held_cpu)))
        print(f"pair {i + 1}: ms a step {wall}; of the processors {cpu}", flush=True)
    for what, at in (("held / free", 0), ("of the processors' time, which others on the machine do not lengthen", 1)):
        ratios = [held[at] / free[at] for free, held in pairs]
        print(f"{what}: {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f}), goal {GOAL}")
    free = statistics.median(free[0] for free, _ in pairs)
    masks = statistics.median(within)
    print(f"the masks themselves: {1e3 * masks:.2f} ms a step, {masks / free:.1%} of a free one")


def _time_masks(into: list[float]) -> None:
    """Note how long the masks of each step take."""
    masks = loop.allowed_tokens

    def timed(*given: Any) -> Any:
        began = time.perf_counter()
        made = masks(*given)
        into.append(time.perf_counter() - began)
        return made

    loop.allowed_tokens = timed


if __name__ == "__main__":
    main()
