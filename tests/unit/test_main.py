"""How the program ends."""

from pathlib import Path

import pytest

from tinyzero_trl.commands.main import main


def test_ctrl_c_is_one_line_and_the_status_that_shells_know(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tinyzero_trl.evaluation.evaluate", interrupted)
    command = ["eval", "--model", "embedded", "--data", "generate", "--out", str(tmp_path / "out")]
    assert main(command) == 130
    assert capsys.readouterr().err == "tinyzero-trl eval: stopped by Ctrl-C\n"
