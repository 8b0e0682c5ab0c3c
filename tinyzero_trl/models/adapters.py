"""The base model of an adapter's folder, as PEFT saves one."""

from pathlib import Path

from tinyzero_trl.models.names import is_path, resolve_model
from tinyzero_trl.models.toy import SHIPPED
from tinyzero_trl.runs.json_lines import read_object

WEIGHTS = "adapter_model.safetensors"


def base_of_adapter(path: str) -> str | None:
    """The model that the adapter in a folder was trained on; None if the folder holds a whole model.

    A base model in a folder that has moved is also looked for beside the adapter's folder, under its own name.

    Raises:
        ValueError: the adapter does not name it, it is not where it was, or the adapter has no weights that are data.
    """
    folder = Path(path)
    adapter = folder / "adapter_config.json"
    if (folder / "config.json").is_file() or (config := read_object(adapter)) is None:
        return None
    base = config.get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise ValueError(f"model: {str(adapter)!r} names no base_model_name_or_path; copy the adapter's folder whole")
    if not (folder / WEIGHTS).is_file():
        raise ValueError(f"model: {path!r} is an adapter without {WEIGHTS}; save it anew in that format")
    if Path(base).expanduser().is_dir():
        return str(Path(base).expanduser())
    if not is_path(base):
        return base
    beside = folder.absolute().parent / Path(base).name
    if beside.is_dir():
        return str(beside)
    for shipped in map(resolve_model, SHIPPED):
        if Path(base).parts[-2:] == Path(shipped).parts[-2:]:  # of another installation of this package
            return shipped
    raise ValueError(
        f"model: {path!r} is an adapter of {base!r}, which has moved; put that model's folder at {str(beside)!r}, or "
        f"correct base_model_name_or_path in {str(adapter)!r}"
    )
