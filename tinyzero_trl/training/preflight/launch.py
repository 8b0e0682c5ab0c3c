"""Whether what runs is what `accelerate launch` was asked for. accelerate falls back to less without a word."""

import copy
import logging
import os
from collections.abc import Mapping, MutableMapping
from typing import Any

import torch
from accelerate import DistributedType

from tinyzero_trl.messages import text_of
from tinyzero_trl.training.recipe.shipped import launch_file
from tinyzero_trl.training.trainer import AdaptiveGRPOTrainer

logger = logging.getLogger(__name__)

# Adam moves a weight by about the learning rate; a bfloat16 weight of 0.02 moves by no less than half its spacing.
LOST_LEARNING_RATE = 0.02 * 2**-9

_WORLD_SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")


def check_launch(environment: Mapping[str, str] = os.environ) -> None:
    """Refuse to go on alone where `accelerate launch` was asked for several processes and started one.

    It does so for `--cpu --num_processes 2` and for the type MULTI_CPU: the address of a meeting point is set then, but
    nobody else will come.

    Raises:
        ValueError: this process has been told where to meet others, and not how many they are.
    """
    is_launched = "ACCELERATE_MIXED_PRECISION" in environment
    if is_launched and "MASTER_ADDR" in environment and _is_alone(environment):
        raise ValueError(
            "num_processes: accelerate was asked for several processes and started one; on CPUs use "
            "ACCELERATE_USE_CPU=1 accelerate launch --multi_gpu --num_processes N, or ask for one"
        )


def see_one_gpu(environment: MutableMapping[str, str] = os.environ) -> None:
    """Leave a process that trains alone the first of the GPUs that it sees; to be called before it uses one.

    TRL refuses a process that sees several, since Trainer would copy the model to all of them (`nn.DataParallel`).
    """
    is_on_cpu = environment.get("ACCELERATE_USE_CPU", "false").lower() in ("true", "1")
    if is_on_cpu or not _is_alone(environment) or (count := torch.cuda.device_count()) < 2:
        return
    visible = environment.get("CUDA_VISIBLE_DEVICES", "0").split(",")
    environment["CUDA_VISIBLE_DEVICES"] = visible[0]
    logger.warning(
        "CUDA_VISIBLE_DEVICES: %d GPUs are visible to one process, which trains on GPU %s; to train on all, launch "
        "with accelerate and %s",
        count,
        visible[0],
        launch_file("zero2"),
    )


def _is_alone(environment: Mapping[str, str]) -> bool:
    """Whether nobody has started other processes beside this one."""
    return not any(size in environment for size in _WORLD_SIZES)


def check_deepspeed(configuration: Any, training: Any, model: Any) -> None:
    """Refuse a DeepSpeed file that contradicts the recipe, which is otherwise found out inside training.

    Args:
        configuration: Transformers' `HfTrainerDeepSpeedConfig`, which has been compared with the recipe so far.
        training: the training arguments.
        model: what is trained; sizes that the file leaves open depend on it.

    Raises:
        ValueError: values of the file that are not those of the recipe.
    """
    tried = copy.deepcopy(configuration)
    try:
        if training.max_steps > 0:
            tried.trainer_config_finalize(training, model, training.max_steps)
        elif tried.mismatches:
            raise ValueError("\n".join(tried.mismatches))
    except ValueError as error:
        found = [line.removeprefix("- ds ") for line in str(error).splitlines() if line.startswith("- ds ")]
        differences = "; ".join(found).replace(" vs hf ", " there, ") or text_of(error)
        raise ValueError(
            f'deepspeed: its configuration is not that of the recipe ({differences} here); write "auto" there, or '
            "change the recipe"
        ) from None


def check_backend(trainer: AdaptiveGRPOTrainer, environment: Mapping[str, str] = os.environ) -> None:
    """Refuse a distributed backend other than the one asked for, and one that would train towards the wrong weights.

    Args:
        trainer: knows what runs.
        environment: says what `accelerate launch` was asked for.

    Raises:
        ValueError: FSDP or DeepSpeed was asked for, and accelerate fell back to something else without a word, as it
            does on CPUs; or FSDP2 would compare with a reference model that only one rank has loaded.
    """
    accelerator = trainer.accelerator
    running = accelerator.distributed_type
    for backend, remedy in (
        (DistributedType.FSDP, f"accelerate runs FSDP on GPUs alone: take {launch_file('ddp')} here"),
        (DistributedType.DEEPSPEED, "unset ACCELERATE_USE_CPU and give --use_cpu true to the program"),
    ):
        asked = environment.get(f"ACCELERATE_USE_{backend.value}", "false").lower() == "true"
        if asked and running != backend:
            raise ValueError(f"distributed_type: {backend.value} was asked for and {running.value} runs; {remedy}")
    if deepspeed := getattr(accelerator.state, "deepspeed_plugin", None):
        check_deepspeed(deepspeed.hf_ds_config, trainer.args, trainer.model)
    plugin = getattr(accelerator.state, "fsdp_plugin", None)
    loads_on_first_rank = plugin and plugin.fsdp_version == 2 and plugin.cpu_ram_efficient_loading
    # TRL 1.16 shards the reference model as it is on each rank, and hands nothing on.
    if loads_on_first_rank and trainer.ref_model is not None and accelerator.num_processes > 1:
        raise ValueError(
            f"fsdp_cpu_ram_efficient_loading: true leaves the reference model that beta {trainer.beta} needs without "
            "weights on all ranks but the first; set it to false in the accelerate file, or beta to 0"
        )
    keeps_float32 = running in (DistributedType.FSDP, DistributedType.DEEPSPEED)
    trained = {weight.dtype for weight in trainer.model.parameters() if weight.requires_grad}
    is_lost = trainer.args.learning_rate < LOST_LEARNING_RATE and trained & {torch.bfloat16, torch.float16}
    if is_lost and not keeps_float32:
        logger.warning(
            "learning_rate: steps of %g are rounded to nothing in trained weights of half precision; set dtype: "
            "float32 (bf16: true computes in half precision all the same), or launch with zero1 to zero3 or fsdp2",
            trainer.args.learning_rate,
        )
