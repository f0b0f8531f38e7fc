"""Cost: what training, tuning, calibrating or just using a model takes, before you pay. From its config alone.

measure.py lays a model out without weights and counts it, size.py holds the counts and what branches add, hardware.py
the machines and what fills them, pricing.py prices the five ways. Importing this package imports no torch.
"""

from __future__ import annotations

from thoughtmix.cost.hardware import Machine, get_machine, load_machines
from thoughtmix.cost.pricing import CostEstimate, CostRequest, Way, estimate
from thoughtmix.cost.size import Graft

__all__ = ["CostEstimate", "CostRequest", "Graft", "Machine", "Way", "estimate", "get_machine", "load_machines"]
