"""What a user sees of an error."""

import sys

import pytest

from utils.errors import UserError, run_program

WRAPPED = """Caught UserError in DataLoader worker process 0.
Original Traceback (most recent call last):
  File "x.py", line 1, in load
utils.errors.UserError: image a.jpg cannot be decoded"""


@pytest.mark.parametrize("message", ["image a.jpg cannot be decoded", WRAPPED])
def test_one_sentence_and_exit_code_2(
    message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["program"])

    def fail(argv: list[str]) -> None:
        raise UserError(message)

    with pytest.raises(SystemExit) as caught:
        run_program(fail)
    assert caught.value.code == 2
    assert capsys.readouterr().err == "error: image a.jpg cannot be decoded\n"
