"""Whether training can change the model at all: a run without effect would end as if it had learned nothing."""

from functools import cache
from importlib.metadata import version
from typing import Any

import torch
from torch import nn
from transformers import Qwen2Config, Qwen2ForCausalLM

from tinyzero_trl.messages import page


def check_trainable(model: Any, peft_config: Any = None) -> None:
    """A model that is given as it is must have a trainable parameter; one loaded by name, or with an adapter, has one.

    Raises:
        ValueError: every parameter is frozen, or rollouts would be sampled without the adapter.
    """
    adapter = peft_config or getattr(model, "active_peft_config", None)
    if str(getattr(adapter, "peft_type", "")).endswith("PREFIX_TUNING") and not samples_with_prefix():
        raise ValueError(
            f"peft_config: PREFIX_TUNING has no effect on rollouts, because Transformers {version('transformers')} "
            f"ignores the prefix that PEFT {version('peft')} gives it; train another adapter, or install an earlier "
            f"Transformers ({page('versions.md')})"
        )
    if not isinstance(model, nn.Module) or peft_config is not None:
        return
    if not any(parameter.requires_grad for parameter in model.parameters()):
        remedy = (
            "load the adapter with is_trainable=True"
            if hasattr(model, "peft_config")
            else "set requires_grad on what is to be trained, or give a peft_config"
        )
        raise ValueError(f"model: every parameter of this {type(model).__name__} is frozen; {remedy}")


@cache
def samples_with_prefix() -> bool:
    """Whether `generate` sees the prefix of an adapter as a forward pass does: tried on a model of one layer."""
    from peft import PrefixTuningConfig, get_peft_model

    sizes: dict[str, Any] = {"vocab_size": 8, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    tokens = torch.ones(1, 2, dtype=torch.long)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        base: Any = Qwen2ForCausalLM(Qwen2Config(**sizes, num_attention_heads=1, num_key_value_heads=1))
        model: Any = get_peft_model(base, PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)).eval()
        for weight in model.parameters():
            nn.init.normal_(weight)
        options = {"max_new_tokens": 1, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
        sampled = model.generate(input_ids=tokens, attention_mask=torch.ones_like(tokens), pad_token_id=0, **options)
        expected = model(input_ids=tokens).logits[:, -1]
    return torch.allclose(sampled.logits[0], expected, atol=1e-3)


def check_given_optimizer(optimizer: Any, model: nn.Module) -> None:
    """An optimizer that is given must hold a trainable parameter of the model.

    Raises:
        ValueError: it holds none, as one that was made for another copy of the model.
    """
    if optimizer is None:
        return
    trainable = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if not any(id(parameter) in trainable for parameter in held):
        raise ValueError(
            f"optimizers: none of the {len(held)} parameters of the optimizer is one of the model that is trained; "
            "give the model as an object and make the optimizer from its parameters, or leave optimizers out"
        )
