"""What `--help` says of defaults."""

import pytest

from tinyzero_trl.commands import train
from tinyzero_trl.commands.main import main


@pytest.mark.parametrize(
    "command", [["plan"], ["data", "countdown"], ["data", "multiplication"], ["eval"], ["warmstart"]], ids=" ".join
)
def test_help_says_no_default_where_there_is_none(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*command, "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert ended.value.code == 0
    assert "(default: " in text and "(default: None)" not in text


def test_help_of_data_lists_the_tasks_that_generate(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["data", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert ended.value.code == 0
    assert text.endswith("examples: addition, countdown, multiplication, counting, reasoning_gym:DATASET.")


def test_fields_are_those_of_the_task_that_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["train", "--help_fields", "--task", "multiplication"])
    text = capsys.readouterr().out
    assert ended.value.code == 0
    assert "--digits" in text and "--max_target" not in text


def test_a_task_whose_fields_nobody_knows_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main(["--help_fields", "--task", "nope"]) == 2
    assert capsys.readouterr().err.startswith("error: task: 'nope' is unknown; use one of ")
