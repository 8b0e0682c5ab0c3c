"""Whether the folder of a run can be written, and has room for a checkpoint."""

import shutil
import tempfile
from pathlib import Path

from torch import nn

from tinyzero_trl.training.config import AdaptiveGRPOConfig

_UNITS = ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "kB"))
_PROBE_BYTES = 1 << 16


def check_disk(training: AdaptiveGRPOConfig, model: nn.Module | None = None) -> None:
    """Refuse to start where nothing can be written, or where not even one checkpoint of `model` has room.

    Makes no folder.

    Raises:
        ValueError: names `output_dir` and what is in the way.
    """
    folder = Path(str(training.output_dir)).absolute()
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    try:
        with tempfile.TemporaryFile(dir=existing) as probe:
            probe.write(bytes(_PROBE_BYTES))
            probe.flush()
    except OSError as error:
        raise ValueError(
            f"output_dir: {str(folder)!r} cannot be written ({error.strerror}); free some space, or name another folder"
        ) from None
    if model is None or training.save_strategy == "no":
        return
    # Weights and the two moments of Adam; what is frozen is not saved, of what is sharded only this rank's part counts.
    trained = sum(weight.numel() * weight.element_size() for weight in model.parameters() if weight.requires_grad)
    needed, free = 3 * trained, shutil.disk_usage(existing).free
    if free < needed:
        left, takes = _sizes(free, needed)
        raise ValueError(
            f"output_dir: {str(folder)!r} has {left} left, and one checkpoint takes about {takes}; free some space, or "
            "name another folder"
        )


def _sizes(smaller: int, larger: int) -> tuple[str, str]:
    """Two different sizes in bytes as text that differs, in the unit of the larger one."""
    divisor, unit = next(((size, name) for size, name in _UNITS if larger >= size), (1, "bytes"))
    for digits in range(10):
        texts = f"{smaller / divisor:.{digits}f} {unit}", f"{larger / divisor:.{digits}f} {unit}"
        if texts[0] != texts[1]:
            break
    return texts
