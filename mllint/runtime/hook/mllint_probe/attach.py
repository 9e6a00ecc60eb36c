"""Installs everything: some of it at once, most of it when the program has imported torch."""

import atexit
import json
import os
import sys
from typing import Any, Callable, Dict, List, Set

from . import failures, patching, state, stopping, writer

#: The same names as `frameworks.ENTRIES`, which is not imported before it is needed.
FRAMEWORKS = (
    "accelerate.accelerator",
    "transformers.trainer",
    "lightning.pytorch.trainer.trainer",
    "pytorch_lightning.trainer.trainer",
)


class Finder:
    """Lets the program's own import of a module run, then attaches to the module. It looks at the names in its table and no others."""

    def __init__(self, table: Dict[str, Callable[[], None]]) -> None:
        self.table = table
        self.looking: Set[Any] = set()

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """The module's real spec, with a loader that calls us afterwards; None for every other module."""
        if name not in self.table or name in self.looking:
            return None
        from importlib.util import find_spec

        self.looking.add(name)
        try:
            spec = find_spec(name)
        except (ImportError, ValueError):
            return None
        finally:
            self.looking.discard(name)
        if spec is None or spec.loader is None or not hasattr(spec.loader, "exec_module"):
            return None
        after = self.table[name]
        loader = spec.loader
        original = loader.exec_module

        def exec_module(module: Any) -> None:
            loader.__dict__.pop("exec_module", None)  # one use: the loader is itself again
            original(module)
            after()

        try:
            loader.exec_module = exec_module  # type: ignore[method-assign]
        except AttributeError:
            state.unavailable("import of " + name)
        return spec


def install(folder: str) -> None:
    """Attach to this interpreter."""
    options = json.loads(os.environ.get("MLLINT_RUN_JSON") or "{}")
    state.begin(folder, options)
    if options.get("sandbox") == "copy":
        from . import links

        links.install()
    failures.install()
    atexit.register(stopping.at_exit)
    atexit.register(failures.at_exit)
    if state.run.options["set"]:
        from . import arguments

        arguments.install()
    if not state.run.options["compile"]:
        os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")  # compiling a small model takes longer than the whole check
    sys.meta_path.insert(0, Finder(_table()))


def _table() -> Dict[str, Callable[[], None]]:
    table = {"torch": torch, "numpy": _numpy}
    table["safetensors.torch"] = _safetensors
    table.update((name, _framework(name)) for name in FRAMEWORKS)
    return table


def _safetensors() -> None:
    from . import effects

    if "torch" in sys.modules:
        patching.attach("safetensors", effects.safetensors)


def _numpy() -> None:
    from . import seeds

    patching.attach("numpy seeds", seeds.numpy)


def _framework(name: str) -> Callable[[], None]:
    def run() -> None:
        from . import frameworks

        patching.attach(name, frameworks.attach(name))

    return run


def torch() -> None:
    """Attach to torch, just imported."""
    if state.run.off:
        return
    state.run.compiles = bool(state.run.options["compile"])
    from . import contexts, effects, gradients, loaders, losses, modules, optimizers, processes, scaling, schedulers, seeds

    groups: List[Any] = [
        ("module places", modules.places),
        ("module calls", modules.install),
        ("train and eval", modules.modes),
        ("optimizers", optimizers.install),
        ("schedulers", schedulers.install),
        ("gradient scalers", scaling.install),
        ("backward", gradients.install),
        ("clipping", gradients.clipping),
        ("gradient contexts", contexts.gradient),
        ("autocast", contexts.autocast),
        ("loaders", loaders.install),
        ("loss functions", losses.install),
        ("seeds", seeds.install),
        ("warnings", failures.watch_warnings),
        ("effects", effects.install),
        ("torch.save", effects.saving),
        ("process groups", processes.install),
    ]
    for what, group in groups:
        patching.attach(what, group)
    if state.run.options["emulate_cuda"]:
        from . import emulate

        patching.attach("CUDA emulation", emulate.install)
    patching.attach("numpy seeds", seeds.numpy)
    _open()
    stopping.watch_clock()


def _open() -> None:
    try:
        writer.open_part()
    except OSError as error:
        sys.stderr.write(f"mllint: the run's part cannot be written: {error}\n")
        state.run.off = True
