"""PEFT's view of a graft: which modules are replaced, and what each of PEFT's verbs means."""

from __future__ import annotations

from typing import Any

from peft import mapping
from peft.tuners.tuners_utils import BaseTuner
from torch import nn

from thoughtmix.core.errors import InputError
from thoughtmix.graft.adapter import Graft, graft_of, thoughts
from thoughtmix.graft.blocks import features, find_blocks, stack_of, width_of
from thoughtmix.graft.config import MoTConfig, MoTPeftType
from thoughtmix.graft.effect import require_effect
from thoughtmix.graft.layer import NO_MERGE, MoTLayer


class MoTModel(BaseTuner):
    """What `peft.get_peft_model(model, MoTConfig())` puts around a model, which is changed in place and frozen."""

    prefix = "mot_"
    tuner_layer_cls = MoTLayer
    target_module_mapping: dict[str, list[str]] = {}  # noqa: RUF012  PEFT's own form; see _pre_injection_hook

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        super().inject_adapter(model, adapter_name, *args, **kwargs)
        named = [(n, m) for n, m in model.named_modules() if isinstance(m, MoTLayer) and adapter_name in m.mot_A]
        config: Any = self.peft_config[adapter_name]
        names = [name for name, _ in named]
        graft = Graft(config, adapter_name, [layer for _, layer in named], stack_of(model, names), model)
        if not config.inference_mode:  # a saved graft was looked at when it was made
            try:
                require_effect(model, graft, names)
            except InputError:
                self._take_off(adapter_name)
                raise

    def _take_off(self, adapter: str) -> None:
        """Leave the model as it was before this adapter came."""
        for name, layer in [(n, m) for n, m in self.model.named_modules() if isinstance(m, MoTLayer)]:
            layer.delete_adapter(adapter)
            if not layer.grafts:
                parent, _, child = name.rpartition(".")
                setattr(self.model.get_submodule(parent), child, layer.base_layer)

    def _prepare_adapter_config(self, peft_config: Any, model_config: dict[str, Any]) -> Any:
        return peft_config

    def _prepare_model(self, peft_config: Any, model: nn.Module) -> None:
        """Find what to graft where the config does not say."""
        if peft_config.target_modules is None:
            blocks = find_blocks(model)
            wrong = [i for i in peft_config.layers or () if not 0 <= i < len(blocks)]
            if wrong:
                raise InputError(f"There is no block {wrong[0]}.", f"Pass 0 to {len(blocks) - 1} (layers=).")
            chosen = blocks if peft_config.layers is None else [blocks[i] for i in sorted(set(peft_config.layers))]
            peft_config.target_modules = _common_ending([block.name for block in chosen], model)

    def _create_and_replace(
        self,
        peft_config: Any,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        number = sum(adapter_name in m.mot_A for m in self.model.modules() if isinstance(m, MoTLayer))
        if isinstance(target, MoTLayer):
            target.update_layer(adapter_name, peft_config, number)
            if adapter_name not in self.active_adapters:
                target.set_requires_grad(adapter_name, False)
            return
        layer = MoTLayer(target, *features(current_key, target, width_of(self.model)))
        layer.update_layer(adapter_name, peft_config, number)
        if adapter_name not in self.active_adapters:
            layer.requires_grad_(False)
        self._replace_module(parent, target_name, layer, target)

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        """Blocks have no `weight`, on which PEFT's own version goes by."""
        setattr(parent, child_name, new_module)

    def _unload_and_optionally_merge(self, merge: bool = True, *args: Any, **kwargs: Any) -> Any:
        if merge:
            raise InputError(*NO_MERGE)
        for layer in [m for m in self.model.modules() if isinstance(m, MoTLayer)]:
            for graft in layer.grafts.values():
                graft.close()
        return super()._unload_and_optionally_merge(False, *args, **kwargs)

    def merge_adapter(self, adapter_names: list[str] | None = None, safe_merge: bool = False) -> None:
        raise InputError(*NO_MERGE)

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """As the model's own, with `creativity` and `thought_seed` beside its settings (also of a generation config):
        see `thoughtmix.graft.thoughts`."""
        given = [kwargs.get("generation_config"), getattr(self.model, "generation_config", None)]
        asked = {}
        for name, key in (("creativity", "creativity"), ("thought_seed", "seed")):
            value = kwargs.pop(name, None)
            for config in given:
                value = getattr(config, name, None) if value is None else value
            if value is not None:
                asked[key] = value
        graft = graft_of(self.model)
        if not asked and graft is not None and kwargs.get("use_cache") is False:  # its rows are as with a cache
            asked["creativity"] = graft.config.creativity_default
        if not asked:
            return self.model.generate(*args, **kwargs)
        with thoughts(self.model, **asked):
            return self.model.generate(*args, **kwargs)


def _common_ending(names: list[str], model: nn.Module) -> set[str]:
    """One ending of names, where it means just these modules; else the names in full."""
    for size in (1, 2, 3):
        endings = {".".join(name.split(".")[-size:]) for name in names}
        meant = [n for n, _ in model.named_modules() if any(n == e or n.endswith(f".{e}") for e in endings)]
        if sorted(meant) == sorted(names):
            return endings
    return set(names)


def register() -> None:
    """Enter the method in PEFT's tables; its own `register_peft_method` takes only names of its own enumeration. Doing
    so again changes nothing."""
    tables: list[tuple[Any, Any]] = [
        (mapping.PEFT_TYPE_TO_CONFIG_MAPPING, MoTConfig),
        (mapping.PEFT_TYPE_TO_TUNER_MAPPING, MoTModel),
        (mapping.PEFT_TYPE_TO_PREFIX_MAPPING, MoTModel.prefix),
    ]
    for table, entry in tables:
        table[MoTPeftType.MOT] = entry
