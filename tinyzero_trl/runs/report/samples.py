"""The browser of sampled completions: what the model wrote before training and after it, side by side.

Prompts and completions are text that a model made up: every character of theirs passes `html.escape`.
"""

from collections.abc import Mapping, Sequence
from html import escape
from itertools import zip_longest
from typing import Any

from tinyzero_trl.runs.records import Run
from tinyzero_trl.runs.report.policies import Policy

_PER_POLICY = 12
_MOST_CHARACTERS = 6_000  # of one completion on the page; the run directory keeps more

_CHANGES = {  # correct before, and after
    (False, True): "learned",
    (True, True): "kept",
    (True, False): "lost",
    (False, False): "unsolved",
}
Row = Mapping[str, Any]


def before_and_after(run: Run) -> list[tuple[Row | None, Row | None]]:
    """Pairs of a completion from the run's first sampled step and one from its last.

    Held-out samples where there are some. The two of a pair answer the same prompt where both steps sampled
    it; otherwise they stand beside each other in the order of sampling, and a missing one is None.
    """
    rows = [row for row in run.completions if row.get("source") == "eval"] or run.completions
    if not rows:
        return []
    steps = [row["step"] for row in rows]
    first, last = min(steps), max(steps)
    before = [row for row in rows if row["step"] == first]
    after = [row for row in rows if row["step"] == last] if last > first else []
    later = {row.get("prompt"): row for row in after}
    pairs: list[tuple[Row | None, Row | None]] = [
        (row, later[row.get("prompt")]) for row in before if row.get("prompt") in later
    ]
    return (pairs or list(zip_longest(before, after)))[:_PER_POLICY]


def samples_section(policies: Sequence[Policy]) -> str:
    """The section's HTML; empty if no run sampled any completion. One run speaks for each policy."""
    cards = [
        _card(policy.name, before, after, named=len(policies) > 1)
        for policy in policies
        for before, after in before_and_after(next(iter(policy.runs.values())))
    ]
    if not cards:
        return ""
    policy_options = "".join(f"<option>{escape(policy.name)}</option>" for policy in policies)
    choose_policy = f"""<select name="policy" aria-label="Policy">
<option value="">all policies</option>{policy_options}</select>"""
    return f"""<h2>Completions, before and after</h2>
<div class="controls" hidden>
{choose_policy if len(policies) > 1 else ""}
<select name="change" aria-label="Verdict">
<option value="">all verdicts</option>
<option value="learned">wrong before, correct after</option>
<option value="lost">correct before, wrong after</option>
<option value="kept">correct before and after</option>
<option value="unsolved">wrong before and after</option></select>
</div>
<p class="muted none" hidden>No completion of this kind was sampled.</p>
{"".join(cards)}"""


def _card(policy: str, before: Row | None, after: Row | None, *, named: bool) -> str:
    kind = _CHANGES[_correct(before), _correct(after)] if before and after else ""
    prompts = [str(row.get("prompt", "")) for row in (before, after) if row]
    same = len(set(prompts)) == 1
    name = f'<span class="muted">{escape(policy)}</span>' if named else ""
    head = f'<pre class="prompt">{escape(prompts[0])}</pre>' if same else ""
    sides = "".join(_side(label, row, same) for label, row in (("before", before), ("after", after)) if row)
    return (
        f'<article class="card samples" data-policy="{escape(policy)}" data-change="{kind}">'
        f"{name}{head}"
        f'<div class="sides">{sides}</div></article>\n'
    )


def _side(label: str, row: Row, prompt_shown: bool) -> str:
    mark, sign = ("correct", "✓") if _correct(row) else ("wrong", "✗")
    facts = [label, f"step {row['step']}"]
    if "length" in row:
        facts.append(f"{row['length']} tokens")
    if row.get("truncated"):
        facts.append("cut at the full length" if row.get("source") == "eval" else "cut by the window")
    prompt = "" if prompt_shown else f'<pre class="prompt">{escape(str(row.get("prompt", "")))}</pre>'
    return (
        f'<div><span class="verdict {mark}">{sign} {escape(str(row.get("reason", mark)))}</span> '
        f'<span class="muted">{escape(", ".join(facts))}</span>{prompt}'
        f"<pre>{_completion(str(row.get('completion', '')))}</pre></div>"
    )


def _completion(text: str) -> str:
    """The text with all before its last answer tag set back as reasoning; a long one loses its middle."""
    if len(text) > _MOST_CHARACTERS:
        half = _MOST_CHARACTERS // 2
        text = f"{text[:half]}\n[{len(text) - 2 * half} characters left out]\n{text[-half:]}"
    start = max(text.rfind("<answer>"), 0)
    return f'<span class="reasoning">{escape(text[:start])}</span>{escape(text[start:])}'


def _correct(row: Row | None) -> bool:
    return row is not None and float(row.get("reward", 0)) >= 1
