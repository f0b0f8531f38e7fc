"""Graft: thought branches on a pretrained model, as a PEFT method named MOT. The model itself stays frozen.

    from peft import get_peft_model
    from thoughtmix.graft import MoTConfig, thoughts
    model = get_peft_model(base, MoTConfig())              # K low-rank branches at each feed-forward block
    with thoughts(model, creativity=0.7, seed=3):          # row i of what follows is thought 3 + i
        model.generate(ids, do_sample=True, num_return_sequences=8)

config.py says what there is to choose, blocks.py finds the feed-forward blocks, route.py draws, context.py keeps what
the rows of a forward go through, layer.py is one grafted map, adapter.py a graft at work in a model, model.py PEFT's
view of it, export.py writes grafts and plain LoRA; tuning/ teaches branches. thoughtmix/_peft_hook.py lets stock PEFT
know the method after `import thoughtmix`.
"""

from __future__ import annotations

import peft  # noqa: F401  first of all: when it is loaded, our method is entered in its tables (_peft_hook.py)

from thoughtmix.graft.adapter import graft_of, routed, thoughts
from thoughtmix.graft.config import MoTConfig
from thoughtmix.graft.export import export_lora, save_graft
from thoughtmix.graft.layer import MoTLayer
from thoughtmix.graft.model import MoTModel

__all__ = ["MoTConfig", "MoTLayer", "MoTModel", "export_lora", "graft_of", "routed", "save_graft", "thoughts"]
