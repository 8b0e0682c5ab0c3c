"""Final accuracies of a grid's policies against a baseline, with evaluations that asked the models again.

    python benchmarks/paired_accuracy.py results/ablation_tiny results/ablation_tiny_three_numbers

The first folder holds the runs, `<policy>/seed_<n>`; the second, under the same names, what `tinyzero-trl eval` wrote
about their final models. Three measures of every policy that was asked again, in per cent, and against the baseline in
points, with 95 % intervals over paired seeds:

trained    the run's last evaluation
again      the second evaluation, on the problems that it asked
together   the mean over difficulties: of the second evaluation where it asked that difficulty, of the first elsewhere.
           All held-out problems have them in equal shares, so this is the accuracy on all of them, from more answers:
           a stratified estimate (W. G. Cochran, "Sampling Techniques", 1977, chapter 5). `trained` weighs the
           difficulties as the evaluated problems happen to have them, and differs by that too.
"""

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from tinyzero_trl.metrics import Interval, mean_interval, paired_difference
from tinyzero_trl.runs.records import read_run

MEASURES = ("trained", "again", "together")
_OF_DIFFICULTY = re.compile(r"eval/(\d+)_acc")


def accuracies(run_folder: Path, evaluation: Path) -> dict[str, float]:
    """The three measures of one model, in per cent.

    Raises:
        ValueError: if the run has no evaluation, or the second one asked a difficulty that the first did not.
    """
    evals = read_run(run_folder).evals
    if not evals:
        raise ValueError(f"{run_folder} has no evaluation; train it with eval_strategy set")
    trained = {match[1]: value for name, value in evals[-1].items() if (match := _OF_DIFFICULTY.fullmatch(name))}
    result = json.loads(evaluation.read_text(encoding="utf-8"))
    again = {difficulty: figures["acc"] for difficulty, figures in result["difficulty"].items()}
    if not again.keys() <= trained.keys():
        raise ValueError(
            f"{evaluation}: difficulties {sorted(again)}, those of {run_folder} are {sorted(trained)}; ask these"
        )
    measures = (evals[-1]["eval/acc"], result["acc"], fmean((trained | again).values()))
    return {measure: 100 * value for measure, value in zip(MEASURES, measures, strict=True)}


def policies(grid: Path, evaluations: Path) -> dict[str, dict[str, dict[str, float]]]:
    """Policy -> seed folder -> the three measures, for every model that was asked again."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for file in sorted(evaluations.glob("*/seed_*/eval.json")):
        policy, seed = file.parts[-3:-1]
        found.setdefault(policy, {})[seed] = accuracies(grid / policy / seed, file)
    return found


def against(
    policy: Mapping[str, Mapping[str, float]], baseline: Mapping[str, Mapping[str, float]], measure: str
) -> tuple[Interval, Interval | None]:
    """A policy's mean, and its difference from the baseline over the seeds of both, if there are any."""
    mean = mean_interval([measures[measure] for measures in policy.values()])
    seeds = [seed for seed in policy if seed in baseline]
    if not seeds or policy is baseline:
        return mean, None
    ours, theirs = ([runs[seed][measure] for seed in seeds] for runs in (policy, baseline))
    return mean, paired_difference(ours, theirs)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("grid", type=Path)
    parser.add_argument("evaluations", type=Path)
    parser.add_argument("--baseline", default="full")
    options = parser.parse_args(arguments)
    try:
        found = policies(options.grid, options.evaluations)
    except ValueError as error:
        parser.error(str(error))
    if options.baseline not in found:
        parser.error(f"--baseline: {options.baseline!r} is none of {sorted(found)}")
    print(f"| policy | seeds | {' | '.join(MEASURES)} |")
    print("| --- | ---: |" + " ---: |" * len(MEASURES))
    for policy, runs in found.items():
        cells = [_cell(*against(runs, found[options.baseline], measure)) for measure in MEASURES]
        print(f"| {policy} | {len(runs)} | {' | '.join(cells)} |")


def _cell(mean: Interval, difference: Interval | None) -> str:
    text = f"{mean.mean:.1f} %"
    if difference is not None:
        text += f", {difference.mean:+z.1f}"
        if difference.low is not None:
            text += f" ({difference.low:z.1f} to {difference.high:z.1f})"
    return text


if __name__ == "__main__":
    main()
