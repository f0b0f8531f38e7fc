"""Cost: what training, tuning, calibrating or just using a model takes, before you pay. From its config alone.

read.py lays a model out without weights, size.py counts it, graft.py adds branches, memory.py and hardware.py say what
it fills, plan.py prices the five ways. Importing this package imports no torch.
"""

from __future__ import annotations

from thoughtmix.cost.graft import Graft
from thoughtmix.cost.hardware import Kind, kind, kinds
from thoughtmix.cost.plan import Cost, Request, Way, estimate

__all__ = ["Cost", "Graft", "Kind", "Request", "Way", "estimate", "kind", "kinds"]
