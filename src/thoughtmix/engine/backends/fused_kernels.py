"""The fused path by C functions of our own (thoughtmix.kernels), on x86-64.

A step, and a piece of a prompt, is one call for all layers. Keys and values lie in the same batch KV cache as with the
other paths; the call is told where each prompt's and each row's stand.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from thoughtmix import kernels
from thoughtmix.core.interruptible import interruptible
from thoughtmix.engine.backends.base import Piece, Start
from thoughtmix.engine.backends.fused import FusedPath, FusedWeights
from thoughtmix.engine.backends.hidden import HEAD
from thoughtmix.engine.backends.kernel_seats import Seat, Seats
from thoughtmix.engine.prompt_kv import PromptBuffer, PromptKV
from thoughtmix.engine.row_state import NO_ROW_STATE, Read, RowLora, RowState, stack_row_loras
from thoughtmix.models.grafted import GraftedModule
from thoughtmix.models.tried import Kind

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_FIRST_POSITIONS = 2048
"""That the first table of a rotary embedding has."""
_ROWS_AT_ONCE = 4096
"""Rows times layers that one call computes: what is longer can be interrupted."""


KINDS: dict[str, Kind] = {"amx": "bf16-amx", "avx512": "fp16-avx512", "avx2": "fp16-avx2"}
"""How weights are kept, by the level of the kernels."""


def level_of(kind: Kind) -> str:
    """The level of the kernels that keep weights like this; "" of none."""
    return next((level for level, made in KINDS.items() if made == kind), "")


def why_not(model: Any, level: str | None = None) -> str:
    """Why these functions do not decode this model here; "" where they do. It is one that the fused path takes."""
    config = model.config
    width = int(model.model.layers[0].self_attn.head_dim)
    if config.num_attention_heads > kernels.MOST_HEADS * config.num_key_value_heads or width > kernels.MOST_WIDTH:
        return "its attention heads are too many or too wide for the kernels"
    return kernels.why_not(level) if width % 4 == 0 else "its attention heads have an odd width"


class _Packer:
    """Matrices, one behind the other in a piece of memory that is touched as far as it is needed."""

    def __init__(self, numbers: int, library: Any) -> None:
        """numbers: Weights there will be, each matrix filled up to whole tiles."""
        self._memory = torch.empty(2 * numbers + 64, dtype=torch.uint8)
        self._at = -self._memory.data_ptr() % 64
        self._library, self._threads = library, torch.get_num_threads()
        self.kept: list[Tensor] = [self._memory]
        self._library.thoughtmix_large_pages(self._memory.data_ptr(), len(self._memory))

    def matrix(self, parts: Sequence[Tensor], biases: Sequence[Tensor | None]) -> kernels.Matrix:
        """A matrix (outputs, inputs) of which the parts, of one shape, are tiles in turns."""
        outputs, inputs = parts[0].shape
        tiles = padded(outputs, kernels.TILE) // kernels.TILE
        matrix = kernels.Matrix(0, outputs, inputs, self._memory.data_ptr() + self._at, None)
        if len(parts) > 1:
            matrix.outputs = tiles * kernels.TILE * len(parts)
        if any(bias is not None for bias in biases):
            rows = [torch.zeros(outputs) if bias is None else bias.float() for bias in biases]
            spread = [F.pad(row, (0, tiles * kernels.TILE - outputs)).view(tiles, kernels.TILE) for row in rows]
            matrix.bias = self.keep(torch.stack(spread, 1).flatten())
        parts = [part.detach() if part.dtype == torch.bfloat16 else part.detach().float() for part in parts]
        for kind in (kernels.GRID4, kernels.GRID8, kernels.PLAIN):
            matrix.kind = kind
            if all(self._pack(matrix, part.contiguous(), i, len(parts)) for i, part in enumerate(parts)):
                break
        blocks = padded(inputs, kernels.BLOCK) // kernels.BLOCK
        self._at += tiles * len(parts) * blocks * kernels.TILE_BYTES[matrix.kind]
        return matrix

    def _pack(self, matrix: kernels.Matrix, part: Tensor, first: int, step: int) -> bool:
        half, outputs = int(part.dtype == torch.bfloat16), part.shape[0]
        return bool(self._library.thoughtmix_pack(matrix, part.data_ptr(), half, outputs, first, step, self._threads))

    def keep(self, numbers: Tensor) -> int:
        """The address of these as float32."""
        self.kept.append(numbers.detach().float().contiguous())
        return self.kept[-1].data_ptr()


def padded(count: int, to: int) -> int:
    """The next multiple."""
    return -(-count // to) * to


def _tiles(outputs: int, inputs: int) -> int:
    """Weights of a matrix filled up to whole tiles."""
    return padded(outputs, kernels.TILE) * padded(inputs, kernels.BLOCK)


class KernelWeights(FusedWeights):
    """Everything a step needs, in the form that the C functions read."""

    def __init__(self, model: PreTrainedModel, level: str = "amx") -> None:
        super().__init__(model, KINDS[level])
        self.library = kernels.library(level)
        layers: Any = model.model.layers
        head: Any = model.lm_head
        attention, mlp = layers[0].self_attn, layers[0].mlp
        self.inner, self.width = (int(size) for size in mlp.gate_proj.weight.shape)
        heads = (self.g + 2) * self.h * self.d
        each = _tiles(heads, self.width) + _tiles(self.width, self.g * self.h * self.d)
        each += 2 * _tiles(self.inner, self.width) + _tiles(self.width, self.inner)
        packer = _Packer(len(layers) * each + _tiles(*head.weight.shape), self.library)
        self._layers = (kernels.Layer * len(layers))(*(self._layer_of(packer, layer) for layer in layers))
        self.model = kernels.Model(
            len(layers), self.width, self.inner, self.g * self.h, self.h, self.d,
            float(model.config.rms_norm_eps), float(attention.scaling), self._layers,
            packer.matrix([head.weight], [head.bias]), packer.keep(self.gain),
        )  # fmt: skip
        self._kept = packer.kept
        self._lock = threading.Lock()
        self._reach = 0
        self.vocabulary = len(head.weight)
        self._with_updates(layers)

    def _layer_of(self, packer: _Packer, layer: Any) -> kernels.Layer:
        attention, mlp = layer.self_attn, layer.mlp
        maps = [attention.q_proj, attention.k_proj, attention.v_proj]
        biases = [part.bias for part in maps if part.bias is not None]
        down = mlp.down_proj
        made = kernels.Layer(
            qkv=packer.matrix([torch.cat([part.weight for part in maps])], [torch.cat(biases) if biases else None]),
            out=packer.matrix([attention.o_proj.weight], [attention.o_proj.bias]),
            gated=packer.matrix([mlp.gate_proj.weight, mlp.up_proj.weight], [mlp.gate_proj.bias, mlp.up_proj.bias]),
            down=packer.matrix([down.weight], [down.bias]),
            norm=packer.keep(layer.input_layernorm.weight),
            norm_mlp=packer.keep(layer.post_attention_layernorm.weight),
            lora=-1,
        )
        if getattr(attention, "q_norm", None) is not None:
            made.q_norm, made.k_norm = packer.keep(attention.q_norm.weight), packer.keep(attention.k_norm.weight)
        return made

    def _with_updates(self, layers: Any) -> None:
        """Take the branches of a graft as they are now."""
        maps = [layer.mlp.down_proj for layer in layers]
        found = [module.thought_update() if isinstance(module, GraftedModule) else None for module in maps]
        some = [(index, *update) for index, update in enumerate(found) if update is not None]
        self.grafted = bool(some)
        numbers = sum(_tiles(*a.shape) + _tiles(*b.shape) for _, _, a, b in some)
        packer = _Packer(numbers, self.library) if some else None
        for index, number, a, b in some:
            assert packer is not None
            layer = self._layers[index]
            layer.lora, layer.lora_a = number, packer.matrix([a], [None])
            layer.lora_b = packer.matrix([b], [None])
        self.ranks = some[0][2].shape[0] if some else 0
        self._branches = packer.kept if packer else []

    def with_branches_of(self, model: PreTrainedModel) -> KernelWeights:
        new = copy.copy(self)
        new._layers = type(self._layers).from_buffer_copy(self._layers)
        new.model = kernels.Model.from_buffer_copy(self.model)
        new.model.layer = new._layers
        layers: Any = model.model.layers
        new._with_updates(layers)
        return new

    def path(self, row_state: RowState = NO_ROW_STATE, read: Read = "shared") -> KernelPath:
        return KernelPath(self, row_state, read)

    def reach(self, positions: int) -> None:
        """Have angles of the rotary embedding for so many positions. Older tables are kept: others may be reading."""
        if positions <= self._reach:
            return
        with self._lock:
            count = max(_FIRST_POSITIONS, self._reach)
            while count < positions:
                count *= 2
            angle = (torch.arange(count, dtype=torch.float32)[:, None] * self.frequencies.cpu()).double()
            tables = angle.cos().float(), angle.sin().float()
            self._kept = [*self._kept, *tables]
            self.model.cosine, self.model.sine = (table.data_ptr() for table in tables)
            self._reach = count


class KernelPath(FusedPath):
    """The fused path by one call a step."""

    weights: KernelWeights

    def __init__(
        self, weights: KernelWeights, row_state: RowState = NO_ROW_STATE, read: Read = "shared", joined: bool = False
    ) -> None:
        super().__init__(weights, row_state, read, joined)
        self.cache.apart = True

    def empty(self) -> KernelPath:
        return KernelPath(self.weights, joined=True)

    reads_on = True
    _unread: tuple[list[int], PromptKV] | None = None
    """A prompt that the coming `read_on` reads, too, and where its keys go."""
    _memory = torch.empty(0, dtype=torch.uint8)
    _seats: Seats | None = None
    _lora: tuple[RowLora, list[Tensor]] | None = None

    @torch.inference_mode()
    def start(self, asked: Start) -> tuple[Tensor | None, int]:
        lone = len(asked.prompts) == 1 and not asked.prefixes and not asked.keep
        if not (asked.reads_on and lone and self.read == "shared"):
            return super().start(asked)
        w, (ids,) = self.weights, asked.prompts
        prompt = PromptBuffer.of(None, (w.count, w.h, w.d), len(ids), len(ids)).prompt()
        self.cache.join([prompt], asked.counts, asked.capacity)
        self._unread = ids, prompt
        return None, len(ids)

    @torch.inference_mode()
    def read_on(self, tokens: Sequence[Sequence[int]]) -> Tensor:
        """In one pass with a prompt that was not read yet: in each layer its keys are there before somebody looks."""
        cache, (ids, prompt) = self.cache, self._unread or ([], None)
        seats = [] if prompt is None else [Seat.of(0, len(ids), 0, True, (prompt.keys, prompt.values))]
        firsts = accumulate([0, *(place.rows for place in cache.places[:-1])])
        counts = [len(tokens[first]) for first in firsts]  # of each place's rows
        each = torch.tensor([len(own) for own in tokens])
        last = each.cumsum(0)
        behind = torch.arange(int(last[-1])) - (last - each).repeat_interleave(each)
        positions = torch.cat([torch.arange(len(ids)), cache.positions().repeat_interleave(each) + behind])
        row_lora = self._active_row_lora()
        if row_lora is not None:
            row_lora = stack_row_loras([None, row_lora.repeat_rows(each)], [len(ids), len(behind)])
        flat = torch.tensor([*ids, *(token for own in tokens for token in own)])
        pick = len(ids) + last - 1
        logits = self._run(flat, positions, self._seated(counts, seats, len(ids)), pick, row_lora)
        self.hidden = {key: x[pick] for key, x in self.hidden.items()}
        self._unread = None
        cache.read_on(counts)
        return logits

    @torch.inference_mode()
    def prefill_packed(self, pieces: Sequence[Piece]) -> list[tuple[Tensor, PromptKV]]:
        w = self.weights
        seats, prompts, starts, first = list[Seat](), list[PromptKV](), list[int](), 0
        for ids, past, whole in pieces:
            before = 0 if past is None else past.length
            prompt = PromptBuffer.of(past, (w.count, w.h, w.d), before + len(ids), whole).prompt()
            prompts.append(prompt)
            seats.append(Seat.of(first, len(ids), before, True, prompt.rest(), root=prompt.root))
            starts.append(before)
            first += len(ids)
        last = torch.tensor([len(piece.ids) for piece in pieces]).cumsum(0) - 1
        positions = torch.cat([torch.arange(b, b + len(p.ids)) for b, p in zip(starts, pieces, strict=True)])
        tokens = torch.tensor([token for piece in pieces for token in piece.ids])
        return list(zip(self._run(tokens, positions, Seats.of(seats), last), prompts, strict=True))

    def _read_each(self, ids: list[int], n: int, capacity: int) -> tuple[Tensor, int]:
        w, t = self.weights, len(ids)
        none = [torch.empty(w.h, 0, w.d)] * w.count
        self.cache.join([PromptKV(none, none, 0)], [n], t + capacity)
        bucket = self.cache.places[0].bucket
        keys, values = bucket.own_keys[:, 0], bucket.own_values[:, 0]
        seats = Seats.of([Seat.of(row * t, t, 0, True, (keys[:, row], values[:, row])) for row in range(n)])
        row_lora = self._active_row_lora()
        with self.row_state.prefilling(slice(0, n), "each"):
            tokens, positions = torch.tensor(ids).repeat(n), torch.arange(t).repeat(n)
            last = torch.arange(1, n + 1) * t - 1
            logits = self._run(tokens, positions, seats, last, None if row_lora is None else row_lora.repeat_rows(t))
        self.cache.begun(t)
        return logits, n * t

    @torch.inference_mode()
    def step(self, tokens: Tensor) -> Tensor:
        cache = self.cache
        if self._seats is None or self._seats.version != cache.version:
            self._seats = self._seated([1] * len(cache.places))
        logits = self._run(tokens, cache.positions(), self._seats, None, self._active_row_lora())
        cache.advance()
        return logits

    def _seated(self, tokens: Sequence[int], before: Sequence[Seat] = (), first: int = 0) -> Seats:
        """Of a pass with so many tokens a row of each place, behind `before`, which ends with row `first`."""
        seats = list(before)
        for place, count in zip(self.cache.places, tokens, strict=True):
            bucket, slot = place.bucket, place.slot
            if place.seat is None or place.seat.memory is not bucket.own_keys:  # a bucket that grows lies elsewhere
                both = bucket.prompt_keys, bucket.prompt_values
                shared = [part[:, slot] if isinstance(part, Tensor) else part for part in both]
                own = bucket.own_keys[:, slot], bucket.own_values[:, slot]
                place.seat = Seat.of(0, 0, place.length, False, shared, own, bucket.own_keys, place.root)
            segment = place.seat.segment
            segment.first, segment.rows, segment.tokens = first, place.rows * count, count
            seats.append(place.seat)
            first += segment.rows
        return Seats.of(seats, self.cache.version)

    @interruptible()
    def _run(
        self, tokens: Tensor, positions: Tensor, seats: Seats, pick: Tensor | None, row_lora: RowLora | None = None
    ) -> Tensor:
        """Logits (picked, vocabulary), float32, of the rows picked, or of all."""
        w, rows = self.weights, len(tokens)
        w.reach(int(positions.max()) + 1)
        embedded = F.embedding(tokens, w.embed).float()
        positions = positions.int()
        pick = torch.arange(rows, dtype=torch.int32) if pick is None else pick.int()
        logits = torch.empty(len(pick), w.vocabulary)
        batch = kernels.Batch(
            rows, len(seats.segments), len(pick), 1, 1, w.ranks, seats.together, embedded.data_ptr(),
            positions.data_ptr(), seats.segments, pick.data_ptr(), logits.data_ptr(),
        )  # fmt: skip
        moves = self._moves(row_lora, rows) if row_lora is not None and w.grafted else []
        if moves:
            batch.lora_scale, batch.scales, batch.moves = moves[0].data_ptr(), len(moves[0]), len(moves[-1])
            batch.lora_shift = moves[1].data_ptr() if len(moves) > 1 else None
        threads = torch.get_num_threads()
        library, model = w.library, w.model
        size = library.thoughtmix_memory(model, batch, threads) + 64
        if size > len(self._memory):
            self._memory = torch.empty(size, dtype=torch.uint8)
        batch.memory = self._memory.data_ptr() + -self._memory.data_ptr() % 64
        self.hidden, at = {}, 0
        for end in self._stops(rows):
            if end in self.note or (self.note and end == w.count):
                hidden = torch.empty(rows, w.width)
                batch.hidden = hidden.data_ptr()
                self.hidden = {**self.hidden, end: hidden}
            library.thoughtmix_forward(model, batch, at, end, threads)
            at, batch.hidden = end, None
            embedded.size()  # as an operation of torch's: here the work can be cut (engine/slices.py)
        if self.note:
            last = self.hidden[w.count]
            kept = {number: x for number, x in self.hidden.items() if number in self.note}
            self.hidden = {**kept, HEAD: w.norm(last) * w.gain}
        return logits

    def _stops(self, rows: int) -> list[int]:
        """The layers after which something is looked at, or others may have their turn."""
        count = self.weights.count
        return sorted({*range(0, count, max(1, _ROWS_AT_ONCE // rows)), *self.note, count} - {0})

    def _moves(self, row_lora: RowLora, rows: int) -> list[Tensor]:
        """Scales, and shifts where there are any, (layers, ranks, rows in whole tiles)."""
        if self._lora is None or self._lora[0] is not row_lora:
            fill = padded(rows, kernels.TILE) - rows
            parts = [part for part in (row_lora.scale, row_lora.shift) if part is not None]
            turned = [F.pad(part.float().permute(1, 2, 0), (0, fill)).contiguous() for part in parts]
            self._lora = (row_lora, turned)
        return self._lora[1]
