"""FSDP on CPUs, for tests. accelerate 1.15 leaves them out of the list of devices that turn it on, and runs DDP."""

from typing import Any

from accelerate import DistributedType, PartialState
from accelerate.state import AcceleratorState


def let_cpus_count() -> None:
    """Make accelerate do with several CPU processes what it does with several GPUs when it is asked for FSDP."""
    initialise = AcceleratorState.__init__

    def initialise_with_fsdp(self: AcceleratorState, *args: Any, **kwargs: Any) -> None:
        initialise(self, *args, **kwargs)
        if self.distributed_type == DistributedType.MULTI_CPU and kwargs.get("fsdp_plugin") is not None:
            self.fsdp_plugin = kwargs["fsdp_plugin"]
            if self._mixed_precision != "no":
                self.fsdp_plugin.set_mixed_precision(self._mixed_precision)
            self.distributed_type = DistributedType.FSDP
            PartialState._shared_state["distributed_type"] = DistributedType.FSDP

    AcceleratorState.__init__ = initialise_with_fsdp  # type: ignore[method-assign]
