"""The verdict table: what counts as a right answer, row by row, with the reason. Change a row only with a reason."""

import json
from pathlib import Path

import pytest

from tinyzero_trl.tasks import countdown, multiplication

MODULES = {"countdown": countdown, "multiplication": multiplication}
ROWS = json.loads(Path(__file__).with_name("verdicts.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("row", ROWS, ids=[f"{row['task']}: {row['why']}" for row in ROWS])
def test_verdict(row):
    verdict = MODULES[row["task"]].score(row["completion"], row["numbers"], row["target"])
    assert tuple(verdict) == (row["reward"], row["reason"])


def test_the_table_covers_both_verdicts_of_every_task():
    covered = {(row["task"], row["reward"]) for row in ROWS}
    assert covered == {(task, reward) for task in MODULES for reward in (0.0, 1.0)}
