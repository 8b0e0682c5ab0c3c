"""How much memory of a GPU a run needs, as arithmetic: no tensor is made and nothing is loaded.

All sizes are bytes on one GPU. N: trained parameters, F: frozen ones, D: GPUs that share, T: token positions in one
training pass, L layers, h hidden size, q query width (heads x head size), v key or value width (key-value heads x head
size), I width of the gated MLP, V vocabulary, b bytes of a weight or activation.

- States (Rajbhandari et al. 2020, "ZeRO", arXiv 1910.02054, section 3.1): weights, gradients and two moments of Adam.
  DDP in half precision keeps all four in it: (2 + 2 + 4) N. DeepSpeed in half precision keeps a float32 copy of the
  weights and float32 moments, 2 N + 2 N + 12 N, of which ZeRO-1 divides the last, ZeRO-2 the last two and ZeRO-3 all
  three by D. FSDP2 under Accelerate's mixed precision keeps everything in float32, (4 + 4 + 8) N / D; but until the
  last pass of an optimizer step each GPU holds whole gradients, in the type of the passes, b N if that is more.
- Communication: DDP copies gradients into buckets, b N; ZeRO reduces through buckets of 5e8 elements; ZeRO-3 and FSDP2
  gather two layers and whatever lies outside the layers.
- Reference model (`beta` above 0, no adapter): b N, divided by D where weights are.
- Weights in float32 that compute in half precision (`dtype: float32` with `bf16: true`), on one GPU and under DDP:
  autocast's copies, 2 (N + F), in passes of the loss and in rollouts by `generate`.
- Activations of one layer, counted from what autograd keeps of a Qwen2 or Llama layer with fused attention:
  (8 + 4 b) h + 2 b q + 4 b I + 2 b v + 4 heads + 8 bytes for each position (compare Korthikanti et al. 2022, arXiv
  2205.05198, equation 2, for GPT). With gradient checkpointing L inputs of b h stay, and one layer is computed anew.
  With `every_n_layers: n` one layer of n does so, from the first on; with `offload` its input waits on the host.
- Logits: TRL projects tiles of 4096 positions and 32768 words instead of all T V logits; its backward pass holds
  float32 gradients of the hidden states and of the head's weight, 4 T h + (4 + b) V h.
- KV cache: 2 L v b for each token (keys and values). vLLM takes `vllm_gpu_memory_utilization` of the card, for its own
  copy of the weights and the cache; `generate` needs the cache of every row of a rollout at once. With a server neither
  is on these GPUs.
- 2 GiB are set aside for CUDA, NCCL and what the allocator cannot use.

These are estimates for a first choice, good to some tenths; the run's own peak is what counts.
"""

import math
from dataclasses import dataclass, field

GIB = 2**30
RESERVED = 2 * GIB
VLLM_WORKSPACE = 1.5 * GIB  # vLLM's own activations for 4096 batched tokens, and CUDA graphs
_BUCKET_ELEMENTS = 500_000_000  # DeepSpeed's default for reduce_bucket_size
_TILE_POSITIONS, _TILE_WORDS = 4096, 32_768


@dataclass(frozen=True)
class ModelShape:
    """What of a decoder's architecture decides its memory; `parameters` counts tied weights once."""

    parameters: int
    trained_parameters: int
    outside_layers: int  # embeddings and head
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    positions: int | None = None  # tokens of prompt and completion together, where the architecture bounds them

    @property
    def frozen_parameters(self) -> int:
        """Parameters without gradient: all but the adapter's under LoRA."""
        return self.parameters - self.trained_parameters


@dataclass(frozen=True)
class Sharding:
    """What a way of launching divides over the GPUs, and the library that does it."""

    weights: bool = False
    gradients: bool = False
    optimizer: bool = False
    library: str = "none"  # none, ddp, deepspeed or fsdp


WAYS = {
    "single_gpu": Sharding(),
    "ddp": Sharding(library="ddp"),
    "zero1": Sharding(optimizer=True, library="deepspeed"),
    "zero2": Sharding(gradients=True, optimizer=True, library="deepspeed"),
    "zero3": Sharding(weights=True, gradients=True, optimizer=True, library="deepspeed"),
    "fsdp2": Sharding(weights=True, gradients=True, optimizer=True, library="fsdp"),
}


@dataclass(frozen=True)
class Workload:
    """The fields of a recipe, and of the machine, that decide memory; names are the recipe's where it has them."""

    shape: ModelShape
    way: str
    gpus: int
    gpu_memory: float  # bytes
    prompt_tokens: int
    max_completion_length: int
    per_device_train_batch_size: int
    rollout_rows: int  # completions that one GPU generates in a rollout
    max_tokens_per_micro_batch: int | None
    gradient_checkpointing: bool
    weight_bytes: int  # of a loaded weight
    is_half: bool  # computes in half precision
    optimizer: str  # the recipe's `optim`
    beta: float
    divides_batches: bool = True  # whether max_tokens_per_micro_batch has an effect
    every_n_layers: int = 1  # with gradient checkpointing, like the next
    offload: bool = False
    use_vllm: bool = True  # inside the training processes
    is_served: bool = False  # completions come from a vLLM server on GPUs of its own
    vllm_gpu_memory_utilization: float = 0.3
    vllm_tensor_parallel_size: int = 1
    vllm_enable_sleep_mode: bool = False

    @property
    def compute_bytes(self) -> int:
        """Bytes of an activation, and of a weight in vLLM."""
        return 2 if self.is_half else self.weight_bytes

    @property
    def row_tokens(self) -> int:
        """Longest row: prompt and full completion."""
        return self.prompt_tokens + self.max_completion_length

    @property
    def pass_positions(self) -> int:
        """Token positions of the largest training pass."""
        whole = self.per_device_train_batch_size * self.row_tokens
        return min(whole, max(self.max_tokens_per_micro_batch or whole, self.row_tokens))

    @property
    def kv_bytes_per_token(self) -> int:
        """Keys and values of one token in all layers, unsharded."""
        shape = self.shape
        return 2 * shape.layers * shape.kv_heads * shape.head_dim * self.compute_bytes


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes on one GPU, by what they are for; the parts of `update` and `rollout` are not there at the same time."""

    workload: Workload
    states: dict[str, float]
    update: dict[str, float]
    rollout: dict[str, float]
    vllm_cache_tokens: float | None  # of one engine, that is of `vllm_tensor_parallel_size` GPUs
    remedies: list[str] = field(default_factory=list)

    @property
    def peak(self) -> float:
        """Most bytes at one time."""
        return sum(self.states.values()) + max(sum(self.update.values()), sum(self.rollout.values()))

    @property
    def vllm_rows(self) -> float | None:
        """Rows of full length that one vLLM engine holds at once."""
        return None if self.vllm_cache_tokens is None else self.vllm_cache_tokens / self.workload.row_tokens

    @property
    def fits(self) -> bool:
        """Whether the peak fits, and a row of full length fits into vLLM's cache."""
        return self.peak <= self.workload.gpu_memory and (self.vllm_rows is None or self.vllm_rows >= 1)


def memory_plan(work: Workload) -> MemoryPlan:
    """The memory of one GPU under `work`, without remedies."""
    states = {**_states(work), "CUDA, NCCL, allocator": RESERVED}
    is_cast = work.is_half and work.weight_bytes == 4 and WAYS[work.way].library in ("none", "ddp")
    cast = {"half-precision weights": 2.0 * work.shape.parameters} if is_cast else {}
    update = {"activations": _activations(work), "logits": _logits(work), **cast}
    rollout: dict[str, float] = {}
    cache_tokens = None
    if work.use_vllm:
        share = work.vllm_gpu_memory_utilization * work.gpu_memory
        (rollout if work.vllm_enable_sleep_mode else states)["vLLM (weights and KV cache)"] = share
        parts = work.vllm_tensor_parallel_size
        free = share - work.shape.parameters * work.compute_bytes / parts - VLLM_WORKSPACE
        heads = work.shape.kv_heads  # vLLM gives each GPU its share of them, at least one
        cache_tokens = max(0.0, free) * heads / max(1, heads // parts) / work.kv_bytes_per_token
    elif not work.is_served:
        rollout |= cast
        rollout["KV cache (generate)"] = work.rollout_rows * work.row_tokens * work.kv_bytes_per_token
        rollout["sampling logits"] = 8.0 * work.rollout_rows * work.shape.vocabulary  # float32, twice
    return MemoryPlan(work, states, update, rollout, cache_tokens)


def _states(work: Workload) -> dict[str, float]:
    shape, way = work.shape, WAYS[work.way]
    weight, gradient, optimizer = _state_bytes(work)
    trained, frozen = shape.trained_parameters, work.weight_bytes * shape.frozen_parameters
    share = {True: 1 / work.gpus, False: 1.0}
    states = {
        "weights": (weight * trained + frozen) * share[way.weights],
        "gradients": gradient * trained * share[way.gradients],
        "optimizer": optimizer * trained * share[way.optimizer],
    }
    if way.library == "fsdp":
        states["gradients"] = max(states["gradients"], float(work.compute_bytes * trained))
    if work.beta > 0 and not frozen:
        states["reference model"] = work.weight_bytes * shape.parameters * share[way.weights]
    if way.library != "none" and work.gpus > 1:
        buckets = {"ddp": gradient * trained, "deepspeed": 2 * gradient * min(_BUCKET_ELEMENTS, trained), "fsdp": 0.0}
        layer = (shape.parameters - shape.outside_layers) / shape.layers
        gathered = work.compute_bytes * (shape.outside_layers + 2 * layer) if way.weights else 0.0
        states["communication"] = buckets[way.library] + gathered
    return states


def _state_bytes(work: Workload) -> tuple[float, float, float]:
    """Bytes of weight, gradient and optimizer state for each trained parameter, before any sharding."""
    library = WAYS[work.way].library
    if library == "deepspeed" and work.is_half:
        return 2.0, 2.0, 4.0 + _moment_bytes(work.optimizer, 4)
    in_float32 = (library == "fsdp" and work.is_half) or work.shape.frozen_parameters  # adapters are float32
    size = 4 if in_float32 else work.weight_bytes
    return float(size), float(size), _moment_bytes(work.optimizer, size)


def _moment_bytes(optimizer: str, size: int) -> float:
    """Optimizer state for each parameter of `size` bytes; whatever is not known counts as Adam."""
    if "8bit" in optimizer:
        return 2.0
    return 0.0 if optimizer in ("sgd", "adafactor") else 2.0 * size


def layer_activation_bytes(shape: ModelShape, size: int) -> int:
    """What autograd keeps of one layer for each position, in activations of `size` bytes (docstring of the module)."""
    query, key = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    inner = 2 * query + 4 * shape.intermediate + 2 * key
    return (8 + 4 * size) * shape.hidden + size * inner + 4 * shape.heads + 8


def _activations(work: Workload) -> float:
    shape, positions = work.shape, work.pass_positions
    layer = layer_activation_bytes(shape, work.compute_bytes) * positions
    if not work.gradient_checkpointing:
        return float(shape.layers * layer)
    anew = math.ceil(shape.layers / work.every_n_layers)
    inputs = 0 if work.offload else anew * work.compute_bytes * shape.hidden * positions
    return float((shape.layers - anew) * layer + inputs + layer)


def _logits(work: Workload) -> float:
    shape = work.shape
    tile = min(work.pass_positions, _TILE_POSITIONS) * min(shape.vocabulary, _TILE_WORDS) * work.compute_bytes
    head = 0 if shape.frozen_parameters else (4 + work.weight_bytes) * shape.vocabulary * shape.hidden
    return float(tile + 4 * work.pass_positions * shape.hidden + head)
