"""How near the gradient of a cut rollout is to that of the full rollout, on the same completions.

    python benchmarks/gradient_fidelity.py --model embedded-impatient --out results/gradient_fidelity/before.json
    python benchmarks/gradient_fidelity.py --table results/gradient_fidelity/*.json

Groups of 8 completions are sampled in full. Each rule then cuts them: a fixed window, or the decision per group, which
learns from the first `--learn` groups and is measured on the others. Advantages are those of the configured loss (with
the standard deviation of the group), from the rewards that the cut completions earn. The gradients are real ones, of
all parameters, at the weights that sampled: of each group, once with every token weighing the same (`dapo`) and once
with every completion weighing the same (`grpo`).

For each rule and weighting the file holds: tokens over those of the full rollout; cosine between the two gradients;
ratio of their norms, each divided as its loss divides it; with 95 % intervals over resampled groups.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from group_learners import GROUP, Rollout
from numpy.typing import NDArray
from simulate_groups import follow
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from tinyzero_trl.generation.completions import Completion, generate_completions
from tinyzero_trl.models.names import resolve_model
from tinyzero_trl.runs.environment import describe_environment
from tinyzero_trl.tasks import countdown
from tinyzero_trl.windows import WindowConfig, make_policy
from tinyzero_trl.windows.fidelity import advantages

WEIGHTINGS = ("tokens", "sequences")
FIXED = (64, 96, 128, 192, 256, 384)
PER_ROLLOUT = 16  # groups between two updates of the policy
_RESAMPLED = 1000


@dataclass(frozen=True)
class Sampled:
    """Groups in full: token ids of prompts and completions, what they earned, and a label per prompt."""

    prompt_ids: list[list[int]]
    completions: list[list[Completion]]
    right: NDArray[np.bool_]  # (N, GROUP)
    labels: list[str]
    limit: int

    def rollout(self, rows: slice) -> Rollout:
        """Some of the groups, as the simulator has them: a completion that was cut is longer than the limit."""
        length = np.array([[each.length_tokens + each.truncated for each in group] for group in self.completions[rows]])
        places = np.arange(len(self.labels))[rows]
        return Rollout(self.right[rows], length, np.zeros(len(places), dtype=np.int64), places)


def main() -> None:
    args = parse_arguments()
    if args.table:
        print(table(args.table))
        return
    torch.manual_seed(args.seed)
    path = resolve_model(args.model)
    tokenizer = AutoTokenizer.from_pretrained(path, padding_side="left")
    model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    sampled = sample(model, tokenizer, args.groups, args.limit, args.seed)
    measured = slice(args.learn, args.groups)
    limits = {name: cut(sampled)[measured] for name, cut in rules(args).items()}
    print(f"sampled {args.groups} groups; gradients of {args.groups - args.learn}", flush=True)
    result = {
        "rules": measure(model, sampled, measured, limits),
        "success_rate": float(sampled.right[measured].mean()),
        "environment": describe_environment() | {"settings": vars(args) | {"out": None}},
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    task = parser.add_mutually_exclusive_group(required=True)
    task.add_argument("--out", type=Path, help="measure, and write this JSON file")
    task.add_argument("--table", type=Path, nargs="+", help="print what these JSON files hold, one column each")
    parser.add_argument("--model", default="embedded", help="embedded, or the folder of a trained one")
    parser.add_argument("--groups", type=int, default=192, help="sampled in full")
    parser.add_argument("--learn", type=int, default=64, help="of which the first teach the decision per group")
    parser.add_argument("--limit", type=int, default=1024, help="tokens of a completion in the full rollout")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if not 0 < args.learn < args.groups:
        parser.error(f"--learn: {args.learn} must be between 1 and --groups - 1 ({args.groups - 1})")
    return args


def sample(model: Any, tokenizer: Any, groups: int, limit: int, seed: int) -> Sampled:
    """The demo's problems, three and four numbers up to 12."""
    problems = countdown.generate(groups, seed=seed, operands=(3, 4), max_number=12)
    prompts = [countdown.render_prompt(problem, "base") for problem in problems]
    completions = generate_completions(
        model,
        tokenizer,
        [prompt for prompt in prompts for _ in range(GROUP)],
        max_completion_length=limit,
        temperature=1.0,
        seed=seed,
        batch_size=256,
    )
    grouped = [completions[first : first + GROUP] for first in range(0, len(completions), GROUP)]
    right = [
        [countdown.score(each.text, problem.numbers, problem.target).reward == 1 for each in group]
        for problem, group in zip(problems, grouped, strict=True)
    ]
    ids = [tokenizer(prompt)["input_ids"] for prompt in prompts]
    return Sampled(ids, grouped, np.array(right), [str(len(problem.numbers)) for problem in problems], limit)


def rules(args: argparse.Namespace) -> dict[str, Callable[[Sampled], NDArray[np.int64]]]:
    """What cuts the groups, by name: sampled groups -> (N,) limits in tokens."""
    found: dict[str, Callable[[Sampled], NDArray[np.int64]]] = {"full": fixed(args.limit)}
    found |= {f"fixed {window}": fixed(window) for window in FIXED if window < args.limit}
    found["group, plain rule"] = per_group(args, False, group_rule="plain", initial=min(96, args.limit))
    for gain in WEIGHTINGS:
        found[f"group, gain by {gain}"] = per_group(args, False, group_gain=gain)
        found[f"group, gain by {gain}, label"] = per_group(args, True, group_gain=gain)
    return found


def fixed(window: int) -> Callable[[Sampled], NDArray[np.int64]]:
    """One limit for all."""
    return lambda sampled: np.full(len(sampled.labels), window)


def per_group(args: argparse.Namespace, has_label: bool, **fields: Any) -> Callable[[Sampled], NDArray[np.int64]]:
    """The policy `group`, which decides and learns rollout by rollout; without groups that explore."""

    def cut(sampled: Sampled) -> NDArray[np.int64]:
        config = WindowConfig(
            strategy="group", max=args.limit, seed=args.seed, scale_rewards="group", explore_share=0, **fields
        )
        policy, limits = make_policy(config), []
        for first in range(0, len(sampled.labels), PER_ROLLOUT):
            rows = slice(first, first + PER_ROLLOUT)
            labels = sampled.labels[rows] if has_label else None
            limits.append(follow(policy, sampled.rollout(rows), first // PER_ROLLOUT, labels, False))
        return np.concatenate(limits)

    return cut


class Gradients:
    """Gradients of single groups, each distinct one once: (groups, weighting, lengths as cut) -> row."""

    def __init__(self, model: Any, sampled: Sampled) -> None:
        self._model, self._sampled = model, sampled
        self._rows: dict[tuple[Any, ...], int] = {}
        self.vectors: list[NDArray[np.float32]] = []

    def of(self, group: int, limits: list[int]) -> list[dict[str, int]]:
        """For each limit the rows of the group's gradients by weighting; -1 where no completion has an advantage."""
        logps: Tensor | None = None
        found: list[dict[str, int]] = []
        for limit in limits:
            lengths = [min(each.length_tokens, limit) for each in self._sampled.completions[group]]
            wins = won(self._sampled, group, limit)
            found.append(dict.fromkeys(WEIGHTINGS, -1))
            if wins.all() or not wins.any():
                continue
            for weighting in WEIGHTINGS:
                key = (group, weighting, tuple(lengths), tuple(wins))
                if key not in self._rows:
                    logps = self._log_probabilities(group) if logps is None else logps
                    self._rows[key] = len(self.vectors)
                    self.vectors.append(self._gradient(logps, lengths, wins, weighting))
                found[-1][weighting] = self._rows[key]
        return found

    def _log_probabilities(self, group: int) -> Tensor:
        """Of each sampled token, (GROUP, T)."""
        prompt = self._sampled.prompt_ids[group]
        rows = [torch.tensor([*prompt, *each.token_ids]) for each in self._sampled.completions[group]]
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        logits = self._model(input_ids=ids).logits[:, len(prompt) - 1 : -1]
        return logits.log_softmax(-1).gather(-1, ids[:, len(prompt) :, None]).squeeze(-1)

    def _gradient(
        self, logps: Tensor, lengths: list[int], wins: NDArray[np.bool_], weighting: str
    ) -> NDArray[np.float32]:
        of_success, of_failure = advantages(int(wins.sum()), GROUP, scaled=True)
        kept = torch.arange(logps.size(1)) < torch.tensor(lengths)[:, None]
        weights = torch.where(torch.tensor(wins), of_success, of_failure)
        if weighting == "sequences":
            weights = weights / torch.tensor(lengths)
        objective = (logps * kept * weights[:, None]).sum()
        parts = torch.autograd.grad(objective, list(self._model.parameters()), retain_graph=True)
        return torch.cat([part.flatten() for part in parts]).numpy()


def won(sampled: Sampled, group: int, limit: int) -> NDArray[np.bool_]:
    """Which completions of the group are right when they are cut at `limit`."""
    fits = np.array([not each.truncated and each.length_tokens <= limit for each in sampled.completions[group]])
    return np.asarray(sampled.right[group] & fits)


def measure(
    model: Any, sampled: Sampled, measured: slice, limits: dict[str, NDArray[np.int64]]
) -> dict[str, dict[str, Any]]:
    """Figures of each rule, see the top of the file."""
    gradients, groups = Gradients(model, sampled), range(len(sampled.labels))[measured]
    rows = [gradients.of(group, [int(limits[name][at]) for name in limits]) for at, group in enumerate(groups)]
    vectors = np.stack(gradients.vectors)
    products = np.pad(vectors @ vectors.T, (0, 1)).astype(np.float64)  # the last row and column are the zero vector
    tokens = {name: tokens_kept(sampled, groups, limit) for name, limit in limits.items()}
    figures: dict[str, dict[str, Any]] = {}
    for at, name in enumerate(limits):
        figures[name] = {
            "tokens_over_full": float(tokens[name].sum() / tokens["full"].sum()),
            "successes_kept": successes_kept(sampled, groups, limits[name]),
        }
        for weighting in WEIGHTINGS:
            of_rule, of_full = (np.array([each[rule][weighting] for each in rows]) for rule in (at, 0))
            by_tokens = (tokens[name], tokens["full"]) if weighting == "tokens" else None
            figures[name][weighting] = compare(products, of_rule, of_full, by_tokens)
    return figures


def tokens_kept(sampled: Sampled, groups: range, limits: NDArray[np.int64]) -> NDArray[np.float64]:
    """Of each group under its limit."""
    return np.array(
        [
            sum(min(each.length_tokens, int(limit)) for each in sampled.completions[group])
            for group, limit in zip(groups, limits, strict=True)
        ],
        dtype=float,
    )


def successes_kept(sampled: Sampled, groups: range, limits: NDArray[np.int64]) -> float:
    """Share of the successes of the full rollout."""
    kept = sum(int(won(sampled, group, int(limit)).sum()) for group, limit in zip(groups, limits, strict=True))
    return kept / int(sampled.right[groups].sum())


def compare(
    products: NDArray[np.float64],
    rule: NDArray[np.int64],
    full: NDArray[np.int64],
    tokens: tuple[NDArray[np.float64], NDArray[np.float64]] | None,
) -> dict[str, list[float]]:
    """Cosine and ratio of norms of two sums of gradients, each with its 95 % interval: [value, low, high].

    Args:
        products: inner products of the distinct gradients.
        rule: the row of each group's gradient under the rule; -1 is the zero vector.
        full: the same of the full rollout.
        tokens: of each group under the rule and in full, where the loss divides by them.
    """
    pairs = [products[np.ix_(left, right)] for left, right in ((rule, rule), (rule, full), (full, full))]
    count = len(rule)
    weights = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), size=_RESAMPLED)
    draws = np.concatenate([np.ones((1, count)), weights])
    own, both, whole = (np.einsum("bi,ij,bj->b", draws, each, draws, optimize=True) for each in pairs)
    with np.errstate(invalid="ignore", divide="ignore"):  # a draw may hold no group with an advantage: left out
        cosine, ratio = both / np.sqrt(own * whole), np.sqrt(own / whole)
    if tokens is not None:
        ratio = ratio * (draws @ tokens[1]) / (draws @ tokens[0])
    return {
        name: [float(each[0]), *np.nanquantile(each[1:], [0.025, 0.975]).tolist()]
        for name, each in (("cosine", cosine), ("norm_ratio", ratio))
    }


def table(files: list[Path]) -> str:
    """A table in Markdown: for each file and rule tokens, and both cosines with their intervals."""
    results = {file.stem.replace("_", " "): json.loads(file.read_text())["rules"] for file in files}
    columns = [
        f"{name}: {what}" for name in results for what in ("tokens", "cosine, by tokens", "cosine, by sequences")
    ]
    lines = [f"| rule | {' | '.join(columns)} |", "| --- |" + " ---: |" * len(columns)]
    for rule in next(iter(results.values())):
        cells = []
        for figures in results.values():
            cosines = [figures[rule][weighting]["cosine"] for weighting in WEIGHTINGS]
            cells += [f"{figures[rule]['tokens_over_full']:.2f} x"]
            cells += ["{:.2f} ({:.2f} to {:.2f})".format(*cosine) for cosine in cosines]
        lines.append(f"| {rule} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
