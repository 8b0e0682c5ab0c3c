"""Counts where a program on a GPU would wait until the device has done all that it was given. It runs on a CPU.

Counted are reads of a value on the device, operations whose result has a size that only the device knows, and data of
the host that become a tensor (a copy from ordinary memory waits, too). What stays inside one operation of PyTorch is
not seen. On a GPU `torch.cuda.set_sync_debug_mode` says the same (`benchmarks/gpu/synchronisations.py`).
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

_FUNCTIONS = {Tensor.tolist, Tensor.cpu, Tensor.numpy, torch.tensor, torch.as_tensor, Tensor.new_tensor}
_OPERATIONS = {
    *("_local_scalar_dense", "is_nonzero", "equal"),
    *("nonzero", "masked_select", "_unique", "_unique2", "unique_dim", "unique_consecutive", "bincount"),
}
_BY_MASK = {"index", "index_put", "index_put_"}


@contextmanager
def synchronisations() -> Iterator[Counter[str]]:
    """Within it, the waits so far, by the name of what waits."""
    counted: Counter[str] = Counter()
    with _Functions(counted), _Operations(counted):
        yield counted


class _Functions(TorchFunctionMode):
    def __init__(self, counted: Counter[str]) -> None:
        super().__init__()
        self._counted = counted

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _FUNCTIONS:
            self._counted[func.__name__] += 1
        return func(*args, **(kwargs or {}))


class _Operations(TorchDispatchMode):
    def __init__(self, counted: Counter[str]) -> None:
        super().__init__()
        self._counted = counted

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        by_mask = name in _BY_MASK and any(
            each is not None and each.dtype in (torch.bool, torch.uint8) for each in args[1]
        )
        unsized = name == "repeat_interleave" and (kwargs or {}).get("output_size") is None
        if name in _OPERATIONS or by_mask or unsized:
            self._counted[name] += 1
        return func(*args, **(kwargs or {}))
