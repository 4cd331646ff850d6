"""Whether a job can be run as it is described, said before anything is started.

After this check nothing about the description can fail later: every task's command expands, and
fits into one message.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from p2prc.errors import JobInvalid, WireError
from p2prc.model.job import TASKS_LIMIT, IntegerRange, Job, Step, TextList
from p2prc.model.tree import check_path
from p2prc.model.workload import Command
from p2prc.protocol.egress import BRIDGE
from p2prc.protocol.jobs.expansion import expand_template_text, expand_text, names_in
from p2prc.protocol.jobs.parameters import (
    Chunk,
    Value,
    check_parameter,
    single_parameters,
    task_count,
)
from p2prc.wire.codec import Codec, encode

JOB_LIMIT_BYTES = 32 << 20
ARGUMENT_LIMIT = 128 * 1024
COMMAND_LIMIT = 512 * 1024
"""A command travels in one control frame, with room to spare."""
_PADDING = 200
"""Both ends of a chunk, each padded to the widest format."""

job_codec: Codec[Job] = Codec(Job, limit_bytes=JOB_LIMIT_BYTES)


def check_job(job: Job) -> None:
    """Refuse a job that could not run as described: `JobInvalid`, or `PathInvalid`."""
    _check_shape(job)
    _check_distinct((step.name for step in job.steps), "step")
    total = 0
    for number, step in enumerate(job.steps):
        if any(needed >= number for needed in step.needs):
            raise JobInvalid(f"the step {step.name!r} needs one that does not come before it")
        names = [parameter.name for parameter in single_parameters(step.parameters)]
        _check_distinct(names, "parameter")
        for parameter in step.parameters:
            check_parameter(parameter)
        total += task_count(step)
        if step.verify and not step.command.outputs:
            raise JobInvalid(
                f"the step {step.name!r} brings nothing back that could be compared",
                hint="say which files: `--out GLOB`; or leave `--verify` out",
            )
        if step.is_isolated and step.workload.network == BRIDGE:
            raise JobInvalid(
                f"each task of the step {step.name!r} has a network of its own: none has a bridge",
                hint="leave `--isolate` out, or use `--network proxy`",
            )
        _check_command(step)
    if total > TASKS_LIMIT:
        raise JobInvalid(f"a job of {total} tasks, at most {TASKS_LIMIT} are allowed")


def _check_shape(job: Job) -> None:
    # A value made here was never decoded: a round trip applies every bound of its fields.
    try:
        job_codec.decode(encode(job))
    except (WireError, UnicodeEncodeError) as error:
        raise JobInvalid(f"not a job: {error}"[:300]) from error


def _check_distinct(names: Iterable[str], kind: str) -> None:
    seen: dict[str, None] = {}
    for name in names:
        if name in seen:
            raise JobInvalid(f"two {kind}s are called {name!r}")
        seen[name] = None


def _check_command(step: Step) -> None:
    values = {each.name: _widest(each) for each in single_parameters(step.parameters)}
    command = step.command
    texts = [*command.argv, *command.variables.values(), *(file.content for file in command.files)]
    is_template = step.is_template
    total = sum(_checked_length(text, values, is_template=is_template) for text in texts)
    total += len(encode(command.surroundings))
    if total > COMMAND_LIMIT:
        raise JobInvalid(f"a command of {total} bytes, at most {COMMAND_LIMIT} are allowed")
    _check_paths(command)
    _check_outputs(command, values, is_template=is_template)


def _check_paths(command: Command) -> None:
    files = [*command.files, *(file for each in command.surroundings for file in each.files)]
    for path in (*command.folders, *(file.path for file in files)):
        check_path(path)


def _checked_length(text: str, values: Mapping[str, Value], *, is_template: bool = False) -> int:
    if "\0" in text:
        raise JobInvalid("an argument with a NUL character")
    longest = max((len(str(value).encode()) for value in values.values()), default=0)
    places = len(names_in(text, is_template=is_template))
    most = len(text.encode()) + (longest + _PADDING) * places
    if most > ARGUMENT_LIMIT:
        raise JobInvalid(f"an argument that may grow over {ARGUMENT_LIMIT} bytes")
    if is_template:
        return len(expand_template_text(text, values).encode())
    return len(expand_text(text, values).encode())


def _check_outputs(command: Command, values: Mapping[str, Value], *, is_template: bool) -> None:
    if is_template:
        # Patterns of a template hold no values: braces in them are names of files.
        values = {}
    for pattern in command.outputs:
        _checked_length(pattern, values)
        check_path(expand_text(pattern, values).rstrip("/"))


def _widest(parameter: IntegerRange | TextList) -> Value:
    """Return a value of the parameter's kind that is as long as any."""
    if isinstance(parameter, TextList):
        return max(parameter.values, key=lambda value: len(value.encode()))
    return _widest_integer(parameter)


def _widest_integer(parameter: IntegerRange) -> Value:
    ends = [end for span in parameter.spans for end in (span.start, span.end)]
    widest = max(ends, key=lambda end: len(str(end)))
    if parameter.chunk == 1 and not parameter.is_interval:
        return widest
    return Chunk(widest, widest + 1, max(span.step for span in parameter.spans))
