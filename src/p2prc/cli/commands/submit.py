"""`submit`: an Open Job Description template as a job."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click
import msgspec

from p2prc.api.schema import TemplateRequest
from p2prc.cli.commands.work_options import (
    again_option,
    priority_option,
    taken_from,
    verify_option,
    work_options,
)
from p2prc.cli.following import announce, wait_safe_option
from p2prc.cli.invocation import Invocation, absolute, command
from p2prc.errors import FileUnknown, JobInvalid

_TEMPLATE_LIMIT_BYTES = 1 << 20


@command("submit")
@click.argument("template")
@click.option(
    "-p",
    "--param",
    "parameters",
    multiple=True,
    metavar="NAME=VALUE",
    help="Give a job parameter its value.",
)
@click.option("--values", metavar="FILE", help="Take values from a YAML or JSON file.")
@click.option(
    "--retries", type=click.IntRange(0, 100), metavar="N", help="Try a failed task so often again."
)
@click.option("--on", multiple=True, metavar="NODE,...", help="Only these nodes.")
@click.option("--isolate", is_flag=True, help="Give each task a sandbox of its own.")
@verify_option
@again_option
@priority_option
@click.option("--watch", "is_watched", is_flag=True, help="Show how far it is, to the end.")
@wait_safe_option
@work_options
@click.pass_obj
def submit_command(
    invocation: Invocation,
    /,
    *,
    template: str,
    parameters: tuple[str, ...],
    values: str | None,
    is_watched: bool,
    waits_safe: bool,
    **options: Any,
) -> None:
    """Run an Open Job Description template, on all nodes.

    Paths that go in (PATH parameters with the data flow IN) are sent along; those that go OUT come
    back to where the template says, or to --to. Without --watch, prints the job's id and key.
    """
    text, path = _text_of(template, "template")
    request = _request(text, path, _values(parameters), options)
    if values is not None:
        request = msgspec.structs.replace(request, values_text=_text_of(values, "values file")[0])
    if sys.stderr.isatty() and not invocation.as_json:
        request = msgspec.structs.replace(request, has_reader=True)
    created = invocation.client.submit_template(request)
    announce(invocation, created, is_watched=is_watched, waits_safe=waits_safe)


def _text_of(typed: str, what: str) -> tuple[str, Path]:
    path = Path(absolute(typed))
    try:
        if path.stat().st_size > _TEMPLATE_LIMIT_BYTES:
            raise JobInvalid(f"the {what} `{typed}` is larger than 1 MiB")
        return path.read_text("utf-8"), path
    except UnicodeDecodeError as error:
        raise JobInvalid(f"the {what} `{typed}` is not UTF-8 text") from error
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise FileUnknown(f"cannot read the {what} `{typed}`: {reason}") from error


def _values(typed: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for text in typed:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise click.BadParameter(f"{text!r} is no value: write it like `NAME=VALUE`")
        found[name] = value
    return found


def _request(
    text: str, path: Path, values: dict[str, str], options: dict[str, Any]
) -> TemplateRequest:
    work = taken_from(options)
    shared = work.request([])
    del shared["argv"]
    on = [name.strip() for names in options["on"] for name in names.split(",") if name.strip()]
    fields = {
        **shared,
        "to": None if work.to is None else absolute(work.to),
        "retries": options["retries"],
        "verify": options["verify"],
        "again": options["again"],
        "priority": options["priority"],
        "on": on,
        "isolate": options["isolate"],
        "template": text,
        "template_name": path.name[:200],
        "folder": str(path.parent),
        "current": os.getcwd(),  # noqa: PTH109 - as a text
        "values": values,
    }
    try:
        return msgspec.convert(fields, TemplateRequest)
    except msgspec.ValidationError as error:
        raise JobInvalid(f"the job is not valid: {error}") from error
