"""Entry points of frameworks: the objects that run a training loop for the program, and what they were given."""

import sys
from typing import Any, Callable, Dict, Optional, Tuple

from . import contexts, events, modules, patching, sites, state, things, values

#: Module to attach after -> the class in it and the kind of thing it makes.
ENTRIES: Dict[str, Tuple[str, str]] = {
    "accelerate.accelerator": ("Accelerator", "accelerator"),
    "transformers.trainer": ("Trainer", "engine"),
    "lightning.pytorch.trainer.trainer": ("Trainer", "engine"),
    "pytorch_lightning.trainer.trainer": ("Trainer", "engine"),
}


def attach(name: str) -> Callable[[], None]:
    """What to do when a module of `ENTRIES` has been imported."""

    def run() -> None:
        attribute, kind = ENTRIES[name]
        found = getattr(sys.modules[name], attribute, None)
        if "torch" not in sys.modules or not isinstance(found, type):
            state.unavailable(name)
            return
        patching.each_class(found, lambda cls: patching.constructor(cls, _maker(kind)))
        if kind == "accelerator":
            _accelerator(found)
        elif "fit" in found.__dict__:
            _fit(found)

    return run


def _maker(kind: str) -> Callable[..., None]:
    def made(item: Any, function: Any, args: Any, kwargs: Any, site: int) -> None:
        arguments = values.bound(function, args, kwargs, 1)
        module = getattr(item, "model", None) if kind == "engine" else None
        settings = getattr(item, "args", None)
        if kind == "engine" and settings is not None and hasattr(settings, "__dict__"):
            arguments["args"] = _settings(settings)
        partners = []
        if isinstance(module, state.torch().nn.Module):
            partners.append(modules.follow(module, site))
        things.add(item, kind, site, arguments, None, partners)

    return made


_TOLD = (
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "learning_rate",
    "max_grad_norm",
    "lr_scheduler_type",
    "warmup_steps",
    "num_train_epochs",
    "max_steps",
    "fp16",
    "bf16",
    "optim",
    "seed",
    "gradient_checkpointing",
)


def _settings(item: Any) -> Dict[str, Any]:
    """The settings of a trainer that decide how it steps."""
    stored = vars(item)
    return {name: values.value(stored[name]) for name in _TOLD if name in stored}


def _fit(kind: type) -> None:
    """Lightning is given its module with the call that trains it."""

    def before(args: Any, kwargs: Any) -> Optional[int]:
        site = sites.here()
        module = args[1] if len(args) > 1 else kwargs.get("model")
        module = getattr(module, "_orig_mod", module)
        if isinstance(module, state.torch().nn.Module):
            modules.follow(module, site)
        number = things.ident(args[0])
        if number is not None:
            events.write("fit", number, site)
        return None

    patching.method(kind, "fit", state.guarded(before), _never)


def _accelerator(kind: type) -> None:
    """Accelerate: what is prepared, and the accumulation context, of which each turn says whether it steps."""
    _noted(kind, "prepare")
    original = kind.__dict__.get("accumulate")
    if original is None:
        return
    noted = state.guarded(_accumulating)

    def accumulate(self: Any, *args: Any, **kwargs: Any) -> Any:
        manager = original(self, *args, **kwargs)
        return manager if state.run.off else contexts.Named(manager, "accumulate", noted(self) or {})

    setattr(kind, "accumulate", patching.disguised(accumulate, original))  # noqa: B010


def _accumulating(accelerator: Any) -> Dict[str, Any]:
    return {"steps": values.value(getattr(accelerator, "gradient_accumulation_steps", None)), "of": things.ident(accelerator)}


def _noted(kind: type, name: str) -> None:
    def before(args: Any, kwargs: Any) -> int:
        return sites.here()

    def after(site: int, args: Any, kwargs: Any, result: Any, failed: bool) -> None:
        number = things.ident(args[0])
        if failed or number is None:
            return
        for item in args[1:]:
            if isinstance(item, state.torch().nn.Module):
                modules.follow(item, site)
        given = [things.ident(item) for item in args[1:]]
        events.write(name, number, site, {"things": [n for n in given if n is not None]})

    patching.method(kind, name, state.guarded(before), state.guarded(after))


def _never(*_: Any) -> None:
    raise AssertionError("nothing was seen before, so nothing is seen after")
