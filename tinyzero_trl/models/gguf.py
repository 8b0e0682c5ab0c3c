"""Models in a GGUF file, the format of llama.cpp, which holds configuration, tokenizer and quantised weights.

Quantised weights cannot be trained, saved, or given to vLLM, PEFT or DeepSpeed. So a file is unpacked once to a plain
model folder beside the cache of the Hub, and everything else works with that folder.
"""

import hashlib
import logging
import shutil
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from huggingface_hub import constants
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase

from tinyzero_trl.messages import first_line_of

logger = logging.getLogger(__name__)

SUFFIX = ".gguf"
_TOKENS = ("bos_token", "eos_token", "pad_token", "unk_token")
_REMEDY = "give a whole GGUF file of a language model that Transformers knows, or a folder with safetensors"


def is_gguf(path: str) -> bool:
    """Whether a path names a GGUF file, by its ending."""
    return Path(path).suffix.lower() == SUFFIX


def cache() -> Path:
    """Where unpacked models lie: `tinyzero_trl/gguf` in the folder that `HF_HOME` names."""
    return Path(constants.HF_HOME) / "tinyzero_trl" / "gguf"


def unpack(path: str) -> Path:
    """The folder with the model of a GGUF file: float32 safetensors, configuration and tokenizer.

    The folder is made at the first call, under a name that follows from what the file holds and from the version of
    Transformers that reads it. Several processes may call this at once.

    Raises:
        ValueError: there is no such file, the package `gguf` is missing, or Transformers cannot read the file.
    """
    file = Path(path).absolute()
    if not file.is_file():
        beside = sorted(each.name for each in file.parent.glob(f"*{SUFFIX}"))
        among = f", such as {beside[0]!r} in the same folder" if beside else ""
        raise ValueError(f"model: {path!r} is no file; give one that exists{among}")
    if find_spec("gguf") is None:
        raise ValueError(f"model: {path!r} needs the package gguf to be read; pip install 'tinyzero-trl[gguf]'")
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    folder = cache() / f"{file.stem}-{digest[:16]}-transformers-{version('transformers')}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not folder.is_dir():
            _write(file, folder)
    return folder


def _write(file: Path, folder: Path) -> None:
    """Make `folder` in one move, so that it is never seen half written."""
    logger.info("model: unpacks %s to %s, which takes about a minute and is done once", file, folder)
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    try:
        shutil.rmtree(unfinished, ignore_errors=True)
        _convert(file, unfinished)
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _convert(file: Path, folder: Path) -> None:
    source: dict[str, Any] = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    source["trust_remote_code"] = False  # left out, Transformers asks a person whether to run what lies beside the file
    try:
        config = AutoConfig.from_pretrained(**source)
        tokenizer = AutoTokenizer.from_pretrained(**source)
        quantised = AutoModelForCausalLM.from_pretrained(**source, config=config, dtype=torch.float32)
    except Exception as error:  # a damaged file may bring about anything
        raise ValueError(f"model: {str(file)!r} cannot be read ({first_line_of(error)}); {_REMEDY}") from error
    _name_special_tokens(tokenizer, config)
    tokenizer.clean_up_tokenization_spaces = False  # which would change what a completion says
    tokenizer.save_pretrained(folder)
    with torch.device("meta"):  # a model that does not count as quantised, which Transformers would not save
        plain = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    plain.generation_config = quantised.generation_config
    plain.save_pretrained(folder, state_dict=quantised.state_dict())


def _name_special_tokens(tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig) -> None:
    """Name the special tokens whose numbers the file gives: Transformers 5.17 takes the first token for the last."""
    for name in _TOKENS:
        number = getattr(config, f"{name}_id", None)
        if isinstance(number, int):
            setattr(tokenizer, name, tokenizer.convert_ids_to_tokens(number))
