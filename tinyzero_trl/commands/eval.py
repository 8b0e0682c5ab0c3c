"""`tinyzero-trl eval`: a model answers held-out problems."""

import argparse
from typing import Any

from tinyzero_trl.commands.console import DefaultsFormatter, json_mapping, path, true_or_false
from tinyzero_trl.runs.lock import locked


def register(commands: Any) -> None:
    """Add the subcommand to the parser's `commands`."""
    parser = commands.add_parser(
        "eval",
        help="let a model answer held-out problems: accuracy with intervals, every generation in a file",
        formatter_class=DefaultsFormatter,
        argument_default=argparse.SUPPRESS,
    )
    add = parser.add_argument
    add("--model", required=True, metavar="PATH_OR_ID", help="model folder, Hub id, or 'embedded'")
    add(
        "--data",
        required=True,
        metavar="FILE|DIR|HUB_ID",
        help="a parquet, JSON or CSV file, a folder, a Hub id, or 'generate' for the held-out ones of the model's run",
    )
    add("--split", help="split of a folder or Hub data set; left out, test")
    add("--limit", type=int, metavar="N", help="only the first N problems")
    add("--n", type=int, default=1, help="samples per problem; above 1 gives pass@k")
    shape = parser.add_argument_group(
        "sampling", "What is left out is as in the run that trained the model, and without such a run as said here."
    ).add_argument
    shape("--temperature", type=float, help="0.0, which takes the likeliest token")
    shape("--top-p", type=float, help="1.0: all of the probability mass")
    shape("--top-k", type=int, help="0: all tokens")
    shape("--min-p", type=float, help="0.0: tokens of any probability")
    shape("--repetition-penalty", type=float, help="1.0: none")
    shape("--max-completion-length", type=int, metavar="TOKENS", help="4096, or what fits the model")
    shape("--stop-at-answer", type=true_or_false, metavar="true|false", help="false: go on after </answer>")
    shape("--chat-template-kwargs", type=json_mapping, metavar="JSON", help="none, for the model's chat template")
    add(
        "--engine",
        default="auto",
        help="auto (vLLM where it is installed beside a CUDA device, else transformers), transformers, vllm, a "
        "registered engine, or module:Class",
    )
    add("--seed", type=int, default=0, help="the same seed gives the same files")
    add("--task", help="a task's name, or package.module:Class; left out, that of the model's run, else countdown")
    add(
        "--task-options",
        type=json_mapping,
        metavar="JSON",
        help='such as {"answer_match": "numeric"}; left out, those of the model\'s run, else the defaults',
    )
    add("--template", help="base, qwen-instruct or chat; left out, that of the model's run, else the task's first")
    add("--include-trained", action="store_true", help="keep examples that the model's run was trained on")
    add("--batch-size", type=int, default=64, metavar="ROWS", help="rows generated side by side")
    add("--out", type=path, metavar="DIR", help="folder for the files; left out, one under evaluations/")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Evaluate, and print the figures and where the files lie."""
    from tinyzero_trl.evaluation import EvaluationSettings, default_out, evaluate, format_result

    options = {name: value for name, value in vars(args).items() if name not in ("command", "run", "out", "fields")}
    out = getattr(args, "out", default_out(args.model, args.data))
    settings = EvaluationSettings(**options)
    with locked(out, "out"):
        result = evaluate(settings, out)
    print(format_result(result))
    print(f"{'files':<16}{out / 'eval.json'}, {out / 'generations.parquet'}")
