"""Which settings of a model's own are named as ones that the recipe does not follow."""

from transformers import GenerationConfig

from tinyzero_trl.generation.sampling import own_sampling
from tinyzero_trl.models.toy import EMBEDDED, resolve_model


def test_the_embedded_model_asks_for_no_sampling_of_its_own() -> None:
    assert own_sampling(GenerationConfig.from_pretrained(resolve_model(EMBEDDED)), {"temperature": 1.0}) == {}


def test_what_changes_samples_is_named_and_what_changes_outputs_is_not() -> None:
    config = GenerationConfig(min_p=0.9, output_scores=True, return_dict_in_generate=True)
    assert own_sampling(config, {"temperature": 1.0}) == {"min_p": 0.9}
