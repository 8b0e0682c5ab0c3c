"""What the command line says when something went wrong."""

import errno

import pytest

from tinyzero_trl.commands.console import one_line


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("a\n  b\tc"), "a b c"),
        (ValueError(), "ValueError"),
        (ValueError("\x1b[2J gone \x07\ud800"), r"\x1b[2J gone \x07\ud800"),
        (ValueError("héllo 日本"), "héllo 日本"),
        (OSError(errno.ENOSPC, "No space left on device", "/a b"), "'/a b': no space left on device; free some space"),
        (
            FileExistsError(errno.EEXIST, "File exists", "f\n"),
            r"'f\n': file exists; check the path and what lies there",
        ),
    ],
)
def test_an_error_is_one_line_that_steers_no_terminal(error: Exception, line: str) -> None:
    assert one_line(error) == line
