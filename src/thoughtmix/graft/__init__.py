"""Graft: thought branches on a pretrained model, as a PEFT method named MOT. The model itself stays frozen.

    from peft import get_peft_model
    from thoughtmix.graft import MoTConfig, thoughts
    model = get_peft_model(base, MoTConfig())              # K low-rank branches at each feed-forward block
    with thoughts(model, creativity=0.7, seed=3):          # row i of what follows is thought 3 + i
        model.generate(ids, do_sample=True, num_return_sequences=8)

config.py says what there is to choose, blocks.py finds the feed-forward blocks, layer.py is one grafted map, route.py
draws, rows.py keeps what the rows of a forward go through, model.py is PEFT's view of it all, export.py writes plain
LoRA, files.py grafts. thoughtmix/peft_hook.py lets stock PEFT know the method after `import thoughtmix`.
"""

from __future__ import annotations

import peft  # noqa: F401  first of all: when it is loaded, our method is entered in its tables (peft_hook.py)

from thoughtmix.graft.config import MoTConfig
from thoughtmix.graft.context import routed, thoughts
from thoughtmix.graft.export import export_lora
from thoughtmix.graft.files import save_graft
from thoughtmix.graft.layer import MoTLayer
from thoughtmix.graft.model import MoTModel

__all__ = ["MoTConfig", "MoTLayer", "MoTModel", "export_lora", "routed", "save_graft", "thoughts"]
