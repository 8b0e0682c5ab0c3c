"""What stands in for a vLLM server in tests: it answers without a model, and keeps what it was asked."""

from collections.abc import Iterable
from typing import Any, ClassVar

import torch


class Server:
    """Stands in for TRL's client of a vLLM server: every completion is as long as its request allows."""

    allowed: ClassVar[list[int]] = []
    handed_over: ClassVar[list[set[str]]] = []

    def __init__(self, **_: Any) -> None: ...

    def init_communicator(self, device: torch.device) -> None: ...

    def reset_prefix_cache(self) -> None: ...

    def get_server_info(self) -> dict[str, Any]:
        return {"model_config": {"logprobs_mode": "processed_logprobs"}}

    def update_named_params(self, metadata: list[tuple], parameters: Iterable[tuple[str, torch.Tensor]]) -> None:
        self.handed_over.append({name for name, _ in parameters})

    def generate(self, prompts: list[list[int]], n: int, max_tokens: int, **_: Any) -> dict[str, Any]:
        self.allowed.append(max_tokens)
        rows = len(prompts) * n
        tokens = [[3 + row % 5] * max_tokens for row in range(rows)]
        return {"prompt_ids": prompts, "completion_ids": tokens, "logprobs": [[[-1.0]] * max_tokens] * rows}
