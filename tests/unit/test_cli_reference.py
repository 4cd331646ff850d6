"""The reference page says what the program does."""

from __future__ import annotations

import re
from pathlib import Path

import click
import msgspec
import pytest

from p2prc.api import container_schema, schema, tunnel_schema
from p2prc.cli.main import SECTIONS, root
from p2prc.errors import BY_CODE

PAGE = (Path(__file__).parents[2] / "docs" / "reference.md").read_text()
COMMANDS = [name for section in SECTIONS.values() for name in section if name != "demo"]


def section_of(name: str) -> str:
    found = re.search(rf"^### `p2prc {name}`\n(.*?)(?=^##|\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found is not None, f"the reference has no section for `{name}`"
    return found[1]


def every_command() -> dict[str, click.Command]:
    context = root.make_context("p2prc", ["nothing"], resilient_parsing=True)
    found: dict[str, click.Command] = {}
    for name in COMMANDS:
        command = root.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            found |= {f"{name} {inner}": each for inner, each in command.commands.items()}
        else:
            found[name] = command
    return found


@pytest.mark.parametrize(("name", "command"), every_command().items(), ids=str)
def test_every_command_is_there_with_exactly_its_options(name: str, command: click.Command) -> None:
    documented = set(re.findall(r"^\* `(?:-\w, )?(--[\w-]+)", section_of(name), re.MULTILINE))
    real = {
        option.opts[-1]
        for option in command.params
        if isinstance(option, click.Option) and option.opts[0] not in ("--home", "--json")
    }
    assert documented == real


def test_no_command_is_described_that_does_not_exist() -> None:
    described = set(re.findall(r"^### `p2prc ([\w -]+)`", PAGE, re.MULTILINE))
    assert described == {*every_command(), "demo"}


def test_every_error_code_is_there_with_its_status_and_verdict() -> None:
    rows = re.findall(r"^\| `([\w-]+)` \| (\d+) \| (yes|no) \|", PAGE, re.MULTILINE)
    real = {
        (code, str(kind.exit_status), "yes" if kind.retryable else "no")
        for code, kind in BY_CODE.items()
    }
    assert set(rows) == real
    assert len(rows) == len(real)


def test_every_exit_status_of_the_tree_is_explained() -> None:
    explained = {int(status) for status in re.findall(r"^\| (\d+) \|", PAGE, re.MULTILINE)}
    assert {kind.exit_status for kind in BY_CODE.values()} | {0, 2, 125, 130, 141} == explained


NOT_ANSWERED = {"RunNote", "RunStarted", "RunOutput", "RunEnded", "JobProgress", "JobEnded"}
NOT_ANSWERED |= {"AskStarted", "AskWaiting", "AskEnded", "PolicyChanged"}
NOT_ANSWERED |= {"CreateNote", "CreateEnded", "CreateMade", "CreateFailed", "CreateAllEnded"}
ANSWERS = [
    kind
    for kind in {**vars(schema), **vars(container_schema), **vars(tunnel_schema)}.values()
    if isinstance(kind, type)
    and issubclass(kind, schema.Answer)
    and kind is not schema.Answer
    and kind.__name__ not in {*NOT_ANSWERED, "ErrorFields", "ErrorBody"}
]


@pytest.mark.parametrize("kind", ANSWERS)
def test_the_keys_of_every_answer_are_a_row(kind: type[msgspec.Struct]) -> None:
    keys = ", ".join(f"`{key}`" for key in kind.__struct_encode_fields__)
    assert f"| {keys} |" in PAGE
