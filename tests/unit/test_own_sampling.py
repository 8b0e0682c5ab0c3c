"""Which settings of a model's own are named as ones that the recipe does not follow."""

from typing import Any

from transformers import GenerationConfig

from tinyzero_trl.generation.sampling import advice_on_own_sampling
from tinyzero_trl.models.names import resolve_model
from tinyzero_trl.models.toy import EMBEDDED

RECIPE: dict[str, Any] = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": None, "repetition_penalty": 1.0}


def test_the_embedded_model_asks_for_no_sampling_of_its_own() -> None:
    assert advice_on_own_sampling(GenerationConfig.from_pretrained(resolve_model(EMBEDDED)), RECIPE) == ""


def test_what_changes_samples_is_named_and_what_changes_outputs_is_not() -> None:
    config = GenerationConfig(min_p=0.9, output_scores=True, return_dict_in_generate=True)
    advice = advice_on_own_sampling(config, RECIPE)
    assert advice.startswith("generation_config.json of the model sets min_p, which")
    assert advice.endswith("write min_p: 0.9")
