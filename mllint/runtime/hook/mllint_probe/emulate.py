"""CUDA on a machine without: everything asked of a device named cuda is done in main memory. Only where it was asked for."""

import contextlib
from types import SimpleNamespace
from typing import Any, Dict, Tuple

from . import patching, state

NAME = "emulated CUDA device"


def install() -> bool:
    """Attach, unless there is a real device."""
    torch = state.torch()
    if torch.cuda.device_count():
        return True
    state.run.emulated = True
    _functions(torch)
    _distributed(torch)
    _mode(torch)
    return True


def _is_cuda(torch: Any, item: Any) -> bool:
    if isinstance(item, str):
        return item == "cuda" or item.startswith("cuda:")
    return isinstance(item, torch.device) and item.type == "cuda"


def _moved(torch: Any, args: Tuple[Any, ...], kwargs: Dict[str, Any]) -> Tuple[Tuple[Any, ...], Dict[str, Any]]:
    """The same arguments with main memory for the device."""
    cpu = torch.device("cpu")
    if any(_is_cuda(torch, a) for a in args):
        args = tuple(cpu if _is_cuda(torch, a) else a for a in args)
    device = kwargs.get("device")
    if _is_cuda(torch, device) or (type(device) is int):
        kwargs = dict(kwargs, device=cpu)
    if kwargs.get("pin_memory"):
        kwargs = dict(kwargs, pin_memory=False)
    return args, kwargs


def _mode(torch: Any) -> None:
    from torch.overrides import TorchFunctionMode

    tensor = torch.Tensor
    stays = {tensor.cuda, tensor.pin_memory}
    to = tensor.to
    # names of the functions autocast and friends ask about cuda itself must reach them
    asking = ("is_autocast_enabled", "get_autocast_dtype", "set_autocast_enabled", "set_autocast_dtype")

    class Emulation(TorchFunctionMode):
        """Sends what was meant for the device to main memory."""

        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = kwargs or {}
            if func in stays:
                return args[0]
            if getattr(func, "__name__", "") in asking:
                return func(*args, **kwargs)
            if func is to and len(args) > 1 and type(args[1]) is int:
                args = (args[0], torch.device("cpu"), *args[2:])
            args, kwargs = _moved(torch, args, kwargs)
            return func(*args, **kwargs)

    Emulation().__enter__()


def _functions(torch: Any) -> None:
    properties = SimpleNamespace(name=NAME, major=8, minor=0, total_memory=16 << 30, multi_processor_count=1)
    answers = {
        "is_available": True,
        "device_count": 1,
        "current_device": 0,
        "is_bf16_supported": True,
        "get_device_name": NAME,
        "get_device_capability": (8, 0),
        "get_device_properties": properties,
        "memory_allocated": 0,
        "max_memory_allocated": 0,
        "memory_reserved": 0,
        "max_memory_reserved": 0,
        "mem_get_info": (16 << 30, 16 << 30),
        "memory_summary": "",
    }
    nothing = ["set_device", "synchronize", "empty_cache", "manual_seed", "manual_seed_all", "reset_peak_memory_stats", "init"]
    for name, answer in {**answers, **dict.fromkeys(nothing)}.items():
        if hasattr(torch.cuda, name):
            setattr(torch.cuda, name, _answering(getattr(torch.cuda, name), answer))
    for name in ("device", "device_of"):
        setattr(torch.cuda, name, lambda *_: contextlib.nullcontext())
    patching.function([torch], "load", _loading)


def _answering(original: Any, answer: Any) -> Any:
    def stand_in(*args: Any, **kwargs: Any) -> Any:
        return answer

    return patching.disguised(stand_in, original)


def _loading(original: Any) -> Any:
    def load(*args: Any, **kwargs: Any) -> Any:
        rest = args[2:]
        kwargs.pop("map_location", None)
        return original(args[0], "cpu", *rest, **kwargs) if args else original(map_location="cpu", **kwargs)

    return patching.disguised(load, original)


def _distributed(torch: Any) -> None:
    """Processes talk through gloo, and a wrapped module is told of no device."""
    if not torch.distributed.is_available():
        return

    def joining(original: Any) -> Any:
        def init_process_group(backend: Any = None, *args: Any, **kwargs: Any) -> Any:
            kwargs.pop("device_id", None)
            return original("gloo", *args, **kwargs)

        return patching.disguised(init_process_group, original)

    patching.function([torch.distributed.distributed_c10d, torch.distributed], "init_process_group", joining)
    kind = torch.nn.parallel.DistributedDataParallel
    original = kind.__init__

    def __init__(self: Any, module: Any, device_ids: Any = None, output_device: Any = None, *args: Any, **kwargs: Any) -> None:
        original(self, module, None, None, *args, **kwargs)

    kind.__init__ = patching.disguised(__init__, original)
