"""The browser of sampled completions: what the model wrote first and last, side by side.

Prompts and completions are text that a model made up: the template escapes every character of theirs.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from tinyzero_trl.runs.records import Run
from tinyzero_trl.runs.report.run_groups import RunGroup, sampled
from tinyzero_trl.windows.outcomes import outcomes

_PER_GROUP = 12
_MOST_CHARACTERS = 6_000  # of one completion on the page; the run directory keeps more

_CHANGES: dict[tuple[bool | None, bool | None], str] = {  # correct first, and last
    (False, True): "learned",
    (True, True): "kept",
    (True, False): "lost",
    (False, False): "unsolved",
}
_MARKS = {True: "correct", False: "wrong", None: "unjudged"}
_SIGNS = {"correct": "✓", "wrong": "✗", "unjudged": "?"}
Sample = Mapping[str, Any]


@dataclass(frozen=True)
class Side:
    """One completion: its score as `mark`, `sign` and `reason`, what is known of it, and its text in two parts."""

    mark: str
    sign: str
    reason: str
    facts: str
    prompt: str
    reasoning: str
    answer: str


@dataclass(frozen=True)
class SampleCard:
    """A first and a last completion; `prompt` is that of both, None where they differ."""

    group: str
    change: str
    prompt: str | None
    sides: list[Side]


def before_and_after(run: Run) -> list[tuple[Sample | None, Sample | None]]:
    """Pairs of a completion from the run's first sampled step and one from its last.

    Held-out samples where there are some. The two of a pair answer the same prompt where both steps sampled
    it, the first answer beside the first, the second beside the second; otherwise they stand beside each other in the
    order of sampling, and a missing one is None.
    """
    samples = sampled(run)
    if not samples:
        return []
    steps = [sample["step"] for sample in samples]
    first, last = min(steps), max(steps)
    before = [sample for sample in samples if sample["step"] == first]
    after = [sample for sample in samples if sample["step"] == last] if last > first else []
    later = dict(zip(_keys(after), after, strict=True))
    pairs: list[tuple[Sample | None, Sample | None]] = [
        (sample, later[key]) for key, sample in zip(_keys(before), before, strict=True) if key in later
    ]
    return (pairs or list(zip_longest(before, after)))[:_PER_GROUP]


def _keys(samples: Sequence[Sample]) -> list[tuple[Any, int]]:
    """Of each its prompt, and how many answers to that prompt come before it."""
    seen: Counter[Any] = Counter()
    keys = []
    for sample in samples:
        prompt = repr(sample.get("prompt"))  # a chat is a list
        keys.append((prompt, seen[prompt]))
        seen[prompt] += 1
    return keys


def names_of_sides(groups: Sequence[RunGroup]) -> tuple[str, str]:
    """What the two completions of a pair are called: "before" only where it is from before the first step."""
    first = {min((sample["step"] for sample in sampled(group.first)), default=0) for group in groups}
    return ("before", "after") if first == {0} else ("first", "last")


def sample_cards(groups: Sequence[RunGroup]) -> list[SampleCard]:
    """What the browser of completions shows of the first run of each group; nothing if none sampled any."""
    names = names_of_sides(groups)
    return [
        _card(group.label, dict(zip(names, pair, strict=True)), group.first.success_threshold)
        for group in groups
        for pair in before_and_after(group.first)
    ]


def _card(group: str, pair: Mapping[str, Sample | None], threshold: float) -> SampleCard:
    samples = {name: sample for name, sample in pair.items() if sample}
    prompts = {str(sample.get("prompt", "")) for sample in samples.values()}
    first, last = (_correct(sample, threshold) for sample in pair.values())
    return SampleCard(
        group=group,
        change=_CHANGES.get((first, last), "") if len(samples) == 2 else "",
        prompt=prompts.pop() if len(prompts) == 1 else None,
        sides=[_side(name, sample, threshold) for name, sample in samples.items()],
    )


def _side(name: str, sample: Sample, threshold: float) -> Side:
    facts = [name, f"step {sample['step']}"]
    if "length" in sample:
        facts.append(f"{sample['length']} tokens")
    if sample.get("truncated"):
        facts.append("cut at the full length" if sample.get("source") == "eval" else "cut by the window")
    mark = _MARKS[_correct(sample, threshold)]
    reasoning, answer = _parts(str(sample.get("completion", "")))
    return Side(
        mark=mark,
        sign=_SIGNS[mark],
        reason=str(sample.get("reason") or mark),
        facts=", ".join(facts),
        prompt=str(sample.get("prompt", "")),
        reasoning=reasoning,
        answer=answer,
    )


def _parts(text: str) -> tuple[str, str]:
    """The text before its last answer tag, and from there on; a long one loses its middle."""
    if len(text) > _MOST_CHARACTERS:
        half = _MOST_CHARACTERS // 2
        text = f"{text[:half]}\n[{len(text) - 2 * half} characters left out]\n{text[-half:]}"
    start = max(text.rfind("<answer>"), 0)
    return text[:start], text[start:]


def _correct(sample: Sample | None, threshold: float) -> bool | None:
    """Whether a completion is a success; None where it is missing or was not judged."""
    [outcome] = outcomes([sample.get("reward") if sample else None], threshold)
    return outcome
