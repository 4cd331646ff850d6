"""`new`: a project that embeds a node and has an orchestrator of its own."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import click

from p2prc.cli.failures import note
from p2prc.cli.invocation import Invocation, command
from p2prc.cli.render.output import write, write_json
from p2prc.errors import HomeUnusable, InvalidInput

_TEMPLATES = Path(__file__).parents[1] / "project"
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}", re.ASCII)
_MODULE = re.compile(r"[a-z_][a-z0-9_]{0,63}", re.ASCII)
_FILES = {
    "pyproject.toml": "pyproject.toml",
    "README.md": "README.md",
    "config.toml": "config.toml",
    "init.py": "{module}/__init__.py",
    "main.py": "{module}/__main__.py",
    "orchestrator.py": "{module}/orchestrator.py",
    "task.py": "{module}/task.py",
    "test_orchestrator.py": "tests/test_orchestrator.py",
}


@command("new")
@click.argument("project", metavar="PROJECT")
@click.option("--module", metavar="MODULE", help="The name of its Python module; else PROJECT's.")
@click.pass_obj
def new_command(invocation: Invocation, /, *, project: str, module: str | None) -> None:
    """Make a project that embeds a node, with an orchestrator of its own.

    PROJECT is a new folder. What it does runs at once, and has a test.
    """
    folder = Path(project).expanduser()
    name = folder.name
    if _NAME.fullmatch(name) is None:
        raise InvalidInput(f"`{name[:80]}` is no name of a project: letters, digits, `-` and `_`")
    module = module or re.sub(r"[^a-z0-9_]", "_", name.lower())
    if _MODULE.fullmatch(module) is None or module in ("p2prc", "tests", *sys.stdlib_module_names):
        raise InvalidInput(
            f"`{module[:80]}` cannot be a module's name", hint="name another: `--module NAME`"
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InvalidInput(f"`{folder}` is there already, and not empty")
    made = [_write(folder, template, name, module) for template in _FILES]
    if invocation.as_json:
        write_json({"project": name, "module": module, "folder": str(folder), "files": made})
        return
    write(str(folder))
    note(f"run it: `cd {folder} && python -m {module}`; its test: `python -m pytest`")


def _write(folder: Path, template: str, name: str, module: str) -> str:
    text = (_TEMPLATES / f"{template}.txt").read_text()
    path = folder / _FILES[template].format(module=module)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.replace("@PROJECT@", name).replace("@MODULE@", module))
    except OSError as error:
        raise HomeUnusable(f"cannot write `{path}`: {error.strerror}") from error
    return str(path.relative_to(folder))
