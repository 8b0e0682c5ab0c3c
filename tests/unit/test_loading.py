"""Bounds that a model must keep: its positions, and the embeddings of its tokens."""

from pathlib import Path

import pytest
from transformers import AutoConfig, AutoTokenizer

from tests.support.tiny_models import save_tiny_model
from tinyzero_trl.models.loading import check_model, check_room


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"))


def test_prompt_and_completion_may_fill_every_position(model: Path) -> None:
    config = AutoConfig.from_pretrained(model)
    positions = config.max_position_embeddings
    check_room(positions, 10, positions - 10)
    with pytest.raises(ValueError, match=rf"^max_completion_length: .* use at most {positions - 10}$"):
        check_room(positions, 10, positions - 9)


def test_the_last_token_may_have_the_last_embedding(model: Path) -> None:
    config, tokenizer = AutoConfig.from_pretrained(model), AutoTokenizer.from_pretrained(model)
    largest = max(tokenizer.get_vocab().values())
    config.vocab_size = largest + 1
    check_model(str(model), config, tokenizer)
    config.vocab_size = largest
    with pytest.raises(ValueError, match=rf"embeds {largest} tokens and its tokenizer knows a token {largest};"):
        check_model(str(model), config, tokenizer)
