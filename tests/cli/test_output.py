"""What is printed: any text that a model says, harmless and whole."""

from __future__ import annotations

import json

import pytest

from grounddecode.cli.output import write_json, write_line


def test_model_text_cannot_steer_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    write_line("a\x1b[31m red\x07\ttab\nline \x9b 犬 é")
    assert capsys.readouterr().out == "a\\u001b[31m red\\u0007\ttab\nline \\u009b 犬 é\n"


def test_half_a_pair_is_printed_and_json_keeps_it(capfd: pytest.CaptureFixture[str]) -> None:
    said = {"text": "half \ud800 a pair, a bell \x07, a \x9b and 犬"}
    write_line(said["text"])
    write_json(said)
    plain, _, rest = capfd.readouterr().out.partition("\n")
    assert plain == "half \\ud800 a pair, a bell \\u0007, a \\u009b and 犬"
    assert json.loads(rest) == said
