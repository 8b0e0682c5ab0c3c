"""The shape of a model from its configuration: built on the meta device, so that no weight is read or made."""

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM
from trl import ModelConfig, get_peft_config

from tinyzero_trl.commands.planning.memory import ModelShape
from tinyzero_trl.messages import first_line_of
from tinyzero_trl.models.adapters import base_of_adapter
from tinyzero_trl.models.loading import positions_of
from tinyzero_trl.models.names import resolve_model
from tinyzero_trl.runs.hub_access import offline_if_silent


def model_shape(model: ModelConfig) -> ModelShape:
    """The shape of a recipe's model, counted as Transformers counts.

    The configuration comes from a local folder, the local cache of the Hub, or the Hub. With `use_peft`, or where the
    model is the folder of an adapter, the adapter trains alone.

    Raises:
        ValueError: no configuration of a causal language model can be had, the model has no attention or another number
            of heads in each layer, an adapter's base is not where it was, or peft is needed and missing.
    """
    name = str(model.model_name_or_path)
    path = resolve_model(name)
    base = base_of_adapter(path)
    try:
        config = _configuration(base or path, model.model_revision)
        with torch.device("meta"):
            built: Any = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except (OSError, ValueError) as error:
        reason = first_line_of(error).rstrip(".")
        raise ValueError(
            f"model_name_or_path: no configuration of {name!r} here or on the Hub ({reason}); give "
            "--model_name_or_path a local folder that holds the model's config.json"
        ) from None
    parameters = built.num_parameters()
    ends = (built.get_input_embeddings(), built.get_output_embeddings())
    embeddings = {id(each): each for part in ends if part is not None for each in part.parameters()}
    text = config.get_text_config()
    heads = getattr(text, "num_attention_heads", None)
    kv_heads = getattr(text, "num_key_value_heads", None) or heads
    if type(heads) is not int or type(kv_heads) is not int:
        raise ValueError(
            f"model_name_or_path: {name!r} is a {config.model_type} without one number of attention heads for all "
            "layers, whose memory is not known here; measure it on the machine"
        )
    return ModelShape(
        parameters=parameters,
        trained_parameters=_trained_parameters(built, model, path if base else None),
        outside_layers=sum(each.numel() for each in embeddings.values()),
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        intermediate=getattr(text, "intermediate_size", 4 * text.hidden_size),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=getattr(text, "head_dim", None) or text.hidden_size // heads,
        vocabulary=text.vocab_size,
        positions=positions_of(config),
    )


def _configuration(name: str, revision: str) -> Any:
    with offline_if_silent(name):
        return AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=False)


def _trained_parameters(built: Any, model: ModelConfig, adapter_folder: str | None) -> int:
    """All of the model's, or those of the adapter that the recipe asks for or goes on with."""
    if not model.use_peft and adapter_folder is None:
        return int(built.num_parameters())
    try:
        from peft import PeftConfig, get_peft_model

        asked: Any = get_peft_config(model)  # None without use_peft
        adapter = PeftConfig.from_pretrained(adapter_folder) if adapter_folder else asked
    except (ImportError, ValueError) as error:
        raise ValueError(
            f"use_peft: peft cannot be used ({first_line_of(error).rstrip('.')}); pip install 'tinyzero-trl[peft]'"
        ) from None
    adapter.inference_mode = False  # as saved, it would train nothing
    with torch.device("meta"):
        adapted: Any = get_peft_model(built, adapter)
    return int(adapted.num_parameters(only_trainable=True))
