"""What the command line says when something went wrong."""

import errno

import pytest

from tinyzero_trl.commands.console import one_line
from tinyzero_trl.commands.main import main


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("a\n  b\tc"), "a b c"),
        (ValueError(), "ValueError"),
        (ValueError("\x1b[2J gone \x07\ud800"), r"\x1b[2J gone \x07\ud800"),
        (ValueError("héllo 日本"), "héllo 日本"),
        (ValueError("no answer from https://me:secret@host/x"), "no answer from https://<hidden>@host/x"),
        (OSError(errno.ENOSPC, "No space left on device", "/a b"), "'/a b': no space left on device; free some space"),
        (
            FileExistsError(errno.EEXIST, "File exists", "f\n"),
            r"'f\n': file exists; check the path and what lies there",
        ),
    ],
)
def test_an_error_is_one_line_that_steers_no_terminal(error: Exception, line: str) -> None:
    assert one_line(error) == line


@pytest.mark.parametrize("given", [["--hub_token", "anything"], ["--hub_token=anything"], ["--limt", "anything"]])
def test_what_a_command_does_not_know_shows_no_token(
    given: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if "--limt" in given:
        monkeypatch.setenv("HF_TOKEN", "anything")
    for command in (["eval", "--model", "m", "--data", "d"], ["data", "countdown", "--out", "o"]):
        with pytest.raises(SystemExit):
            main([*command, *given])
        said = capsys.readouterr().err
        assert "unrecognized arguments: --" in said and "anything" not in said
