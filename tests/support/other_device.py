"""A device for PyTorch that every machine has: memory of its own, as a GPU has, computed by the CPU.

    register()
    torch.zeros(3, device=OTHER) + torch.zeros(3)  # RuntimeError, as on a GPU

An operation may not take tensors of both places, with the exceptions that CUDA knows: copies, numbers (tensors without
a dimension), and the indices of a tensor. Results are those of the CPU. So a test finds here what would stop a training
at its first step on a GPU. What a GPU computes or how fast is not seen, nor work in threads of a library.

It is made of a wrapper subclass of Tensor, and of kernels for PyTorch's key of devices from outside, PrivateUse1.
"""

import contextlib
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils import backend_registration

NAME = "other"
IS_SUPPORTED = hasattr(backend_registration, "_setup_privateuseone_for_python_backend")

_COPIES = {"copy_", "_to_copy"}
_INDEXED = {"index", "index_put", "index_put_", "_index_put_impl_"}
_CREATED = ("arange", "arange.start", "arange.start_step", "eye", "full", "linspace", "randperm", "scalar_tensor")
"""Operations that PyTorch would build on one that changes the size of a tensor, which a wrapper cannot do."""

_CPU = torch.device("cpu")
_kept: list[Any] = []  # registrations end with their objects


def register() -> torch.device:
    """Make the device known to PyTorch, for the rest of the process, and return it."""
    backend_registration._setup_privateuseone_for_python_backend(NAME, backend_module=_Module())
    fallback = torch.library.Library("_", "IMPL")
    fallback.fallback(lambda operation, *args, **kwargs: _run(operation, args, kwargs), "PrivateUse1")
    kernels = torch.library.Library("aten", "IMPL")
    kernels.impl("empty.memory_format", _created_by(torch.ops.aten.empty.memory_format), "PrivateUse1")
    kernels.impl("empty_strided", _created_by(torch.ops.aten.empty_strided.default), "PrivateUse1")
    for name in _CREATED:
        packet, _, overload = name.partition(".")
        operation = getattr(getattr(torch.ops.aten, packet), overload or "default")
        kernels.impl(name, _created_by(operation), "PrivateUse1")
    functions = _Functions()
    functions.__enter__()
    torch.Generator = _Generator  # type: ignore[misc]
    torch.inference_mode = torch.no_grad  # type: ignore[assignment,misc]  # which has no views of wrappers
    _kept.extend([fallback, kernels, functions])
    torch.__future__.set_swap_module_params_on_conversion(True)  # parameters stay the objects that optimizers know
    return torch.device(NAME, 0)


class OtherTensor(torch.Tensor):
    """A tensor of the device; `on_cpu` is the tensor of the CPU that holds its numbers."""

    on_cpu: torch.Tensor

    @staticmethod
    def __new__(cls, on_cpu: torch.Tensor, requires_grad: bool = False) -> "OtherTensor":
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            on_cpu.shape,
            strides=on_cpu.stride(),
            storage_offset=on_cpu.storage_offset(),
            dtype=on_cpu.dtype,
            device=torch.device(NAME, 0),
            requires_grad=requires_grad,
        )
        made.on_cpu = on_cpu
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        return _run(func, args, kwargs or {})

    def tolist(self) -> Any:
        return self.on_cpu.tolist()

    def data_ptr(self) -> int:
        return self.on_cpu.data_ptr()

    def untyped_storage(self) -> torch.UntypedStorage:
        return self.on_cpu.untyped_storage()

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Files hold plain tensors."""
        return self.on_cpu.__reduce_ex__(protocol)

    def numpy(self, *_: Any, **__: Any) -> Any:
        raise TypeError(f"can't convert {NAME}:0 device type tensor to numpy")

    def __array__(self, *_: Any, **__: Any) -> Any:
        return self.numpy()

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"{self.on_cpu!r} on {NAME}"


class _Module(backend_registration._DummyBackendModule):
    """What torch.cuda is for CUDA. The device draws from the random numbers of the CPU."""

    def get_rng_state(self, _: Any = None) -> torch.Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: torch.Tensor, _: Any = None) -> None:
        torch.set_rng_state(state)

    def manual_seed(self, _: int) -> None:
        pass

    def device(self, _: Any) -> Any:
        return contextlib.nullcontext()

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]

    def empty_cache(self) -> None:
        pass


class _Generator(torch.Generator):
    """A generator of the CPU for whoever asks for one of the device."""

    def __new__(cls, device: Any = None) -> "_Generator":
        return super().__new__(cls, _CPU if _is_other(device) else device)  # type: ignore[call-arg]


class _Functions(TorchFunctionMode):
    """Functions that reach the kernels in a form that kernels in Python cannot serve."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.tensor, torch.as_tensor) and _is_other(kwargs.get("device")):
            device = kwargs.pop("device")
            if isinstance(args[0], OtherTensor):
                return args[0].to(device, **kwargs)
            return func(*args, **kwargs).to(device)
        if func is torch.Tensor.new_tensor and isinstance(args[0], OtherTensor):
            return torch.tensor(*args[1:], **{"dtype": args[0].dtype} | kwargs).to(args[0].device)
        if func is torch.quantile and isinstance(args[0], OtherTensor):  # it changes the size of a tensor
            return OtherTensor(torch.quantile(args[0].on_cpu, *args[1:], **kwargs))
        if func in (torch.Tensor.__getitem__, torch.Tensor.__setitem__):
            args = (args[0], _without_lists(args[1]), *args[2:])
        return func(*args, **kwargs)


def _without_lists(index: Any) -> Any:
    if isinstance(index, tuple):
        return tuple(_without_lists(each) for each in index)
    return torch.tensor(index) if isinstance(index, list) else index


def _is_other(device: Any) -> bool:
    return device is not None and torch.device(device).type == NAME


def _created_by(operation: Any) -> Any:
    def create(*args: Any, pin_memory: Any = None, **kwargs: Any) -> OtherTensor:
        return OtherTensor(operation(*args, **kwargs | {"device": _CPU}))

    return create


def _run(operation: Any, args: Any, kwargs: Any) -> Any:
    """Compute on the CPU what was asked of the device, and give the result the place that it would have."""
    name = operation.overloadpacket.__name__
    given, structure = pytree.tree_flatten((args, kwargs))
    others = [each for each in given if isinstance(each, OtherTensor)]
    if name not in _COPIES:
        _check_place(operation, args[:1] + args[2:] if name in _INDEXED else given, others)
    stays = isinstance(args[0], OtherTensor) if name == "copy_" else bool(others)
    on_device = _is_other(kwargs["device"]) if kwargs.get("device") is not None else stays
    plain = [_on_cpu(each) for each in given]
    args, kwargs = pytree.tree_unflatten(plain, structure)
    results = operation(*args, **{key: value for key, value in kwargs.items() if key != "pin_memory"})
    wrappers = {id(each.on_cpu): each for each in others}  # an operation in place returns what it was given
    for each in others:
        assert each.shape == each.on_cpu.shape, f"{operation} has changed the size of a tensor"

    def placed(result: Any) -> Any:
        if not isinstance(result, torch.Tensor) or isinstance(result, OtherTensor):
            return result
        if id(result) in wrappers:
            return wrappers[id(result)]
        return OtherTensor(result) if on_device else result

    return pytree.tree_map(placed, results)


def _check_place(operation: Any, values: Any, others: list[OtherTensor]) -> None:
    """Refuse tensors of both places; the values that `operation` takes beside indices are `values`."""
    tensors = [each for each in pytree.tree_leaves(values) if isinstance(each, torch.Tensor)]
    if others and any(not isinstance(each, OtherTensor) and each.dim() > 0 for each in tensors):
        raise RuntimeError(f"{operation}: expected all tensors on the same device, but found {NAME}:0 and cpu")


def _on_cpu(value: Any) -> Any:
    if isinstance(value, OtherTensor):
        return value.on_cpu
    return _CPU if isinstance(value, torch.device) and value.type == NAME else value
