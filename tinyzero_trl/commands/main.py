"""The `tinyzero-trl` command: one function per subcommand, each a thin door to the room that does the work.

Exit status: 0 on success, 2 with one clear line on bad input (argparse's own convention).
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tinyzero_trl.commands.console import OneLineParser, one_line, path, progress_bar
from tinyzero_trl.tasks.prompts import TEMPLATES


def build_parser() -> argparse.ArgumentParser:
    """The parser of every subcommand; a subcommand's function is its `run` default."""
    parser = OneLineParser(prog="tinyzero-trl", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for register in _REGISTER:
        register(commands)
    return parser


def _register_data(commands: Any) -> None:
    parser = commands.add_parser("data", help="write train.parquet and test.parquet with generated problems")
    tasks = parser.add_subparsers(dest="task", required=True, metavar="TASK")
    defaults = argparse.ArgumentDefaultsHelpFormatter
    countdown = tasks.add_parser(
        "countdown", help="make the target from the numbers, each used exactly once", formatter_class=defaults
    )
    countdown.add_argument("--operands", type=int, nargs="+", default=[3, 4], help="operand counts, a same share each")
    countdown.add_argument("--min-number", type=int, default=1, help="smallest number")
    countdown.add_argument("--max-number", type=int, default=99, help="largest number")
    countdown.add_argument("--min-target", type=int, default=10, help="smallest target")
    countdown.add_argument("--max-target", type=int, default=100, help="largest target")
    multiplication = tasks.add_parser("multiplication", help="the product of two numbers", formatter_class=defaults)
    multiplication.add_argument("--digits", type=int, nargs="+", default=[3], help="digit counts, a same share each")
    for task in (countdown, multiplication):
        task.add_argument("--out", type=path, required=True, metavar="DIR", help="folder for the two files")
        task.add_argument("--train-size", type=int, default=327_680, help="problems in train.parquet")
        task.add_argument("--test-size", type=int, default=1024, help="problems in test.parquet")
        task.add_argument("--seed", type=int, default=0, help="the same seed gives the same problems")
        task.add_argument("--template", choices=TEMPLATES, default="base", help="prompt template")
        task.set_defaults(run=_run_data)


def _run_data(args: argparse.Namespace) -> None:
    from tinyzero_trl.tasks.datasets import train_test_problems
    from tinyzero_trl.tasks.parquet import write_splits

    options = vars(args).copy()
    for name in ("command", "run", "fields"):
        del options[name]
    task, out, template = options.pop("task"), options.pop("out"), options.pop("template")
    total = args.train_size + args.test_size
    with progress_bar("problems", total) as advance:
        train, test = train_test_problems(task, progress=advance, **options)
    with progress_bar("rows written", total) as advance:
        splits = {"train": train, "test": test}
        paths = write_splits(out, splits, task=task, template=template, progress=advance)
    for file, problems in zip(paths, splits.values(), strict=True):
        print(f"{file}: {len(problems)} problems")


def _register_eval(commands: Any) -> None:
    parser = commands.add_parser(
        "eval",
        help="let a model answer held-out problems: accuracy with intervals, every generation in a file",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        argument_default=argparse.SUPPRESS,
    )
    add = parser.add_argument
    add("--model", required=True, metavar="PATH_OR_ID", help="model folder, Hub id, or 'embedded'")
    add(
        "--data",
        required=True,
        metavar="FILE|DIR|HUB_ID",
        help="problems: a parquet or JSON file, a folder, a Hub id, or 'generate' for the held-out ones of its run",
    )
    add("--split", default="test", help="split of a folder or Hub data set")
    add("--limit", type=int, metavar="N", help="only the first N problems")
    add("--n", type=int, default=1, help="samples per problem; above 1 gives pass@k")
    add("--temperature", type=float, default=0.0, help="0.0 is greedy")
    add("--max-completion-length", type=int, default=4096, metavar="TOKENS", help="longest completion")
    add("--engine", default="auto", help="auto, transformers or vllm; auto takes vLLM where there is CUDA")
    add("--seed", type=int, default=0, help="the same seed gives the same files")
    add("--task", help="countdown or multiplication; left out, that of the model's run, else countdown")
    add("--template", help="base, qwen-instruct or chat; left out, that of the model's run, else base")
    add("--batch-size", type=int, default=64, metavar="ROWS", help="rows generated side by side")
    add("--out", type=path, metavar="DIR", help="folder for the files; left out, one under evaluations/")
    parser.set_defaults(run=_run_eval)


def _run_eval(args: argparse.Namespace) -> None:
    from tinyzero_trl.evaluation import EvaluationSettings, default_out, evaluate, format_result

    options = {name: value for name, value in vars(args).items() if name not in ("command", "run", "out", "fields")}
    out = getattr(args, "out", default_out(args.model, args.data))
    result = evaluate(EvaluationSettings(**options), out)
    print(format_result(result))
    print(f"{'files':<16}{out / 'eval.json'}, {out / 'generations.parquet'}")


def _register_ablate(commands: Any) -> None:
    parser = commands.add_parser(
        "ablate",
        help="train a grid of recipes, overrides and seeds from one YAML file; what is finished stays",
    )
    parser.add_argument("grid", type=path, metavar="FILE.yaml", help="the grid: output, seeds, common, runs")
    parser.add_argument("--shard", metavar="I/N", help="only this machine's share of the seeds, such as 1/2")
    parser.add_argument("--dry-run", action="store_true", help="print the commands and run nothing")
    parser.set_defaults(run=_run_ablate)


def _run_ablate(args: argparse.Namespace) -> None:
    from tinyzero_trl.commands.ablation import check_fields, read_grid, run_grid, shard_of

    runs = read_grid(args.grid)
    runs = runs if args.shard is None else shard_of(runs, args.shard)
    check_fields(runs)
    if args.dry_run:
        for run in runs:
            print(shlex.join([*run.launch, *run.arguments]))
        return
    failed = run_grid(runs, lambda line: print(line, flush=True))
    if failed:
        print(f"failed: {'; '.join(run.label for run in failed)}", file=sys.stderr)
        sys.exit(1)


def _register_report(commands: Any) -> None:
    parser = commands.add_parser("report", help="one HTML page, pictures and tables from run directories")
    parser.add_argument("runs", type=path, nargs="+", metavar="RUN", help="output_dir of a training run")
    parser.add_argument("--out", type=path, required=True, metavar="DIR", help="folder for the report")
    parser.add_argument("--baseline", metavar="NAME", help="policy to compare with; left out, the largest fixed window")
    parser.set_defaults(run=_run_report)


def _run_report(args: argparse.Namespace) -> None:
    from tinyzero_trl.runs.report import write_report

    print(write_report(args.runs, args.out, baseline=args.baseline))


def _register_warmstart(commands: Any) -> None:
    parser = commands.add_parser(
        "warmstart",
        help="make a small model: supervised training on search traces",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--out", type=path, default=Path("runs/warmstart"), metavar="DIR", help="folder to write")
    add("--size", choices=["tiny", "small"], default="tiny", help="tiny: the embedded model; small: 30 M, for a GPU")
    add("--steps", type=int, help="optimizer steps in all; left out, those of the curriculum")
    add("--seed", type=int, default=0, help="decides weights and traces")
    parser.set_defaults(run=_run_warmstart)


def _run_warmstart(args: argparse.Namespace) -> None:
    from tinyzero_trl.commands.warmstart import held_out
    from tinyzero_trl.models.toy.curricula import CURRICULA
    from tinyzero_trl.models.toy.warmstart import warm_start
    from tinyzero_trl.training.callbacks.progress import quiet_without_terminal

    quiet_without_terminal()
    curriculum = CURRICULA[args.size]
    if args.steps is not None:
        curriculum = curriculum.shortened(args.steps)
    folder = warm_start(args.out, curriculum, seed=args.seed, show_progress=sys.stderr.isatty())
    for measured in held_out(folder, curriculum):
        print(
            f"{measured.task}: {measured.accuracy:.1%} of {measured.problems} held-out problems, "
            f"{measured.mean_length_tokens:.0f} tokens on average, {measured.truncated_frac:.1%} truncated"
        )
    print(folder)


def _register_plan(commands: Any) -> None:
    parser = commands.add_parser(
        "plan",
        help="what a recipe asks of so many GPUs: batches, passes, memory, and what to change where it does not fit",
        epilog="Every field of the recipe can be given as well: --any_field value.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--config", required=True, metavar="R.yaml", help="the recipe")
    add("--gpus", type=int, required=True, metavar="N", help="GPUs over all machines")
    add("--nodes", type=int, default=1, metavar="M", help="machines that share them")
    add("--gpu-memory-gib", type=float, default=80.0, metavar="GIB", help="memory of one GPU")
    add("--launch", metavar="FILE", help="launch file of accelerate, or zero2 and the like; left out, every way")
    add("--prompt-tokens", type=int, default=256, metavar="N", help="length of a prompt")
    parser.set_defaults(run=_run_plan, takes_fields=True)


def _run_plan(args: argparse.Namespace) -> None:
    from rich.console import Console

    from tinyzero_trl.commands.planning import Machines, plan_recipe
    from tinyzero_trl.commands.planning.table import print_plan

    machines = Machines(args.gpus, args.nodes, args.gpu_memory_gib, args.launch)
    plan = plan_recipe(["--config", args.config, *args.fields], machines, prompt_tokens=args.prompt_tokens)
    print_plan(plan, Console(highlight=False, width=None if sys.stdout.isatty() else 120))


def _register_doctor(commands: Any) -> None:
    parser = commands.add_parser("doctor", help="what works on this machine, and the command that mends the rest")
    parser.set_defaults(run=_run_doctor)


def _run_doctor(args: argparse.Namespace) -> None:
    from rich.console import Console

    from tinyzero_trl.commands.console import progress_bar
    from tinyzero_trl.commands.doctor import PATIENTS, examine_all
    from tinyzero_trl.commands.doctor.table import print_findings

    with progress_bar("tried", len(PATIENTS)) as advance:
        findings = examine_all(advance)
    print_findings(findings, Console(highlight=False, width=None if sys.stdout.isatty() else 160))


_REGISTER: list = [
    _register_data,
    _register_eval,
    _register_ablate,
    _register_report,
    _register_warmstart,
    _register_plan,
    _register_doctor,
]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand; bad input ends with exit status 2 and one line on standard error."""
    parser = build_parser()
    args, further = parser.parse_known_args(arguments)
    if further and not hasattr(args, "takes_fields"):
        parser.error(f"unrecognized arguments: {' '.join(further)}")
    args.fields = further
    try:
        args.run(args)
    except (ValueError, OSError) as error:
        print(f"tinyzero-trl {args.command}: {one_line(error)}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
