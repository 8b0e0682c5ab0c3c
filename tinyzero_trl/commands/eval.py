"""`tinyzero-trl eval`: a model answers held-out problems."""

import argparse
from typing import Any

from tinyzero_trl.commands.console import DefaultsFormatter, json_mapping, path, true_or_false
from tinyzero_trl.runs.lock import locked


def register(commands: Any) -> None:
    """Add the subcommand to the parser's `commands`."""
    parser = commands.add_parser(
        "eval",
        help="measure the accuracy of a model on held-out problems, and write all its answers to a file",
        formatter_class=DefaultsFormatter,
        argument_default=argparse.SUPPRESS,
    )
    add = parser.add_argument
    add("--model", required=True, metavar="PATH_OR_ID", help="model folder, Hub id, or 'embedded'")
    add(
        "--data",
        required=True,
        metavar="FILE|DIR|HUB_ID",
        help="a parquet, JSON or CSV file, a folder, a Hub id, or 'generate': the held-out problems of the model's run",
    )
    add("--split", help="split of a folder or Hub data set; by default test")
    add("--limit", type=int, metavar="N", help="only the first N problems")
    add("--n", type=int, default=1, help="answers per problem; above 1 gives pass@k")
    shape = parser.add_argument_group(
        "sampling",
        "The default is the value of the run that trained the model. Without such a run it is the value here.",
    ).add_argument
    shape("--temperature", type=float, help="0.0: the most probable token")
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
        help="auto (vLLM if it is installed and there is a CUDA device, else transformers), transformers, vllm, a "
        "registered engine, or module:Class",
    )
    add("--seed", type=int, default=0, help="the same seed gives the same files")
    add("--task", help="a task's name, or package.module:Class; by default that of the model's run, else countdown")
    add(
        "--task-options",
        type=json_mapping,
        metavar="JSON",
        help='such as {"answer_match": "numeric"}; by default those of the model\'s run, else those of the task',
    )
    add("--template", help="base, qwen-instruct or chat; by default that of the model's run, else the task's first")
    add("--include-trained", action="store_true", help="keep examples that the model's run was trained on")
    add("--batch-size", type=int, default=64, metavar="ROWS", help="completions sampled at the same time")
    add("--out", type=path, metavar="DIR", help="folder for the files; by default one in evaluations/")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Evaluate, and print the figures and where the files lie."""
    from tinyzero_trl.evaluation import GENERATIONS, RESULT, EvaluationSettings, default_out, evaluate, format_result

    options = {name: value for name, value in vars(args).items() if name not in ("command", "run", "out", "fields")}
    out = getattr(args, "out", default_out(args.model, args.data))
    settings = EvaluationSettings(**options)
    with locked(out, "out"):
        result = evaluate(settings, out)
    print(format_result(result))
    print(f"{'files':<16}{out / RESULT}, {out / GENERATIONS}")
