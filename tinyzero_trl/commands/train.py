"""Train a language model with GRPO on problems with a verifiable answer, under an adaptive rollout window.

    tinyzero-trl train --config RECIPE.yaml [--any_field value ...]
    accelerate launch [--config_file FILE] -m tinyzero_trl.commands.train --config RECIPE.yaml [--any_field value ...]

The first command uses one process, on the first GPU that is visible or on the CPU. The second uses as many as
accelerate starts. RECIPE.yaml is a file, or the name of a recipe that comes with the package. Every field of the
recipe can also be given on the command line.
`--window_strategy fixed` trains without an adaptive window.
"""

import sys
import traceback
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tinyzero_trl.commands.console import one_line
from tinyzero_trl.messages import page
from tinyzero_trl.runs.lock import locked
from tinyzero_trl.training.recipe.shipped import LAUNCH_FILES, RECIPES


def register(commands: Any) -> None:
    """Add the subcommand to the parser's `commands`."""
    parser = commands.add_parser(
        "train", help="train a recipe; fields on the command line replace those of the recipe", add_help=False
    )
    parser.set_defaults(run=lambda args: main(args.fields), takes_fields=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, build, train, evaluate, write down. What each exit status means is said in docs/survival.md."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if {"-h", "--help"} & set(arguments):
        print(_help())
        return 0
    if "--help_fields" in arguments:
        from tinyzero_trl.training.recipe.parser import parse_recipe

        try:  # a task has fields, too
            parse_recipe([*(each for each in arguments if each != "--help_fields"), "--help"])
        except (ValueError, OSError, ImportError) as error:
            return _say_error(error, status=2)
    return _train(arguments)


def _train(arguments: Sequence[str]) -> int:
    from safetensors import SafetensorError

    from tinyzero_trl.runs.files import no_empty_folder_on_failure
    from tinyzero_trl.training import run
    from tinyzero_trl.training.callbacks.progress import log_to_stderr, quiet_without_terminal
    from tinyzero_trl.training.callbacks.safe_points import EXIT_STOPPED_BY_SIGNAL, StopOnSignal, leave_process_group
    from tinyzero_trl.training.fault_tolerance import NonFiniteError
    from tinyzero_trl.training.preflight.disk import check_disk
    from tinyzero_trl.training.preflight.launch import check_backend, check_launch, see_one_gpu
    from tinyzero_trl.training.recipe.parser import parse_recipe

    log_to_stderr()
    quiet_without_terminal()
    stop = StopOnSignal()
    stop.listen()
    with ExitStack() as until_the_end:
        try:
            check_launch()
            see_one_gpu()
            task, training, model = parse_recipe(arguments)
            if run.is_over(task, training, model):
                leave_process_group()
                return 0
            training.eval_on_start = True
            check_disk(training)
            output_dir = Path(str(training.output_dir))
            if training.process_index == 0:
                until_the_end.enter_context(locked(output_dir, "output_dir"))
            with no_empty_folder_on_failure(output_dir):
                trainer = run.build_trainer(task, training, model, callbacks=[stop])
                check_disk(training, trainer.model)
                check_backend(trainer)
                trainer.groups.check(trainer.window_callback.policy)
        except (ValueError, OSError, ImportError) as error:  # ImportError: a library that the recipe asks for
            return _say_error(error, status=2)
        try:
            run.start_run(trainer, task, model)
            trainer.train()
            if not stop.was_stopped:
                run.finish_run(trainer)
        except (NonFiniteError, OSError, SafetensorError) as error:
            return _say_error(error, status=1)
        except ValueError:  # too late for bad input; whose code it comes from is seen in the trace
            traceback.print_exc()
            return 1
        leave_process_group()
        if stop.was_stopped:
            return 1 if trainer.checkpoints.error else EXIT_STOPPED_BY_SIGNAL
    return 0


def _say_error(error: Exception, status: int) -> int:
    """One line, and the exit status to leave with."""
    print(f"error: {one_line(error)}", file=sys.stderr)
    return status


def _help() -> str:
    """How the program is called; its hundreds of fields have a help of their own."""
    shipped = sorted(file.stem for file in RECIPES.glob("*.yaml") if not file.stem.startswith("ablation"))
    return (
        f"{__doc__}\n"
        f"Recipes that come with the package: {', '.join(shipped)}\n"
        f"The recipes are in {RECIPES}, launch files of accelerate in {LAUNCH_FILES}.\n"
        f"{page('files.md')} explains the files of a run, {page('survival.md')} its exit status.\n"
        "--help_fields prints every field with its meaning and default."
    )


if __name__ == "__main__":
    sys.exit(main())
