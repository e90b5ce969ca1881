"""Every Python block of the README runs, and what it says `mechlab compare` prints is printed."""

import pathlib
import re
import tomllib

import pytest

from mechlab import cli

README = (pathlib.Path(__file__).parent.parent / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.S)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_python_blocks_run(number, capsys):
    exec(compile(BLOCKS[number], f"README block {number}", "exec"), {"__name__": "readme"})
    assert capsys.readouterr().out.strip()


def test_the_shown_comparison_is_what_is_printed(capsys):
    shown = re.search(r"```\n(GSM8K.*?)```", README, re.S)[1]
    assert cli.main(["compare"]) == 0
    printed = capsys.readouterr().out

    def squeeze(text):
        return [line.split() for line in text.strip().splitlines()]

    assert squeeze(shown) == squeeze(printed)


def test_the_shown_constants_are_toml():
    assert tomllib.loads(re.search(r"```toml\n(.*?)```", README, re.S)[1])["margin"] == 0.25
