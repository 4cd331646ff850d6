"""The Open Job Description library's word on a template: the only importer of openjd.

It knows the specification: which keys there are, which names may be used where, which values a
parameter may have. Here its errors become ours, with the line of the place they name.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from openjd.model import (
    CompatibilityError,
    DecodeValidationError,
    ExpressionError,
    FormatStringError,
    JobTemplate,
    create_job,
    decode_job_template,
    preprocess_job_parameters,
)

from p2prc.errors import TemplateInvalid
from p2prc.templates.document import Document, Place

EXTENSIONS = ("TASK_CHUNKING",)
_PART = re.compile(r"([^\[\]]+)|\[(\d+)\]")
_REFUSALS = (
    DecodeValidationError,
    CompatibilityError,
    ExpressionError,
    FormatStringError,
    NotImplementedError,
    ValueError,
    # A dependency that leads back to itself, among others, ends like this in the library.
    LookupError,
    TypeError,
    AttributeError,
)


def decode(document: Document) -> JobTemplate:
    """Return the template if it follows the specification; raise `TemplateInvalid`."""
    try:
        return decode_job_template(template=document.value, supported_extensions=EXTENSIONS)
    except _REFUSALS as error:
        raise _translated(document, error) from error


def parameter_values(
    template: JobTemplate, values: dict[str, str], document: Document, *, folder: str, current: str
) -> dict[str, tuple[str, str]]:
    """Return every job parameter's type and value, defaults included; paths are absolute.

    Raises `TemplateInvalid` for a value that is missing, unknown or not allowed.
    """
    try:
        found = preprocess_job_parameters(
            job_template=template,
            job_parameter_values=dict(values),
            job_template_dir=Path(folder),
            current_working_dir=Path(current),
        )
    except _REFUSALS as error:
        text = " ".join(str(error).split())
        raise TemplateInvalid(
            f"{document.name}: {text}"[:1500], hint="give values with `-p NAME=VALUE`"
        ) from error
    return {name: (str(each.type.value), str(each.value)) for name, each in found.items()}


def check_job(template: JobTemplate, values: dict[str, str], document: Document) -> None:
    """Let the library make the job, which checks all that depends on the values.

    Only after sums have shown that it is not too large. Raises `TemplateInvalid`.
    """
    try:
        found = preprocess_job_parameters(
            job_template=template,
            job_parameter_values=dict(values),
            job_template_dir=Path("/"),
            current_working_dir=Path("/"),
            allow_job_template_dir_walk_up=True,
        )
        create_job(job_template=template, job_parameter_values=found)
    except _REFUSALS as error:
        raise _translated(document, error) from error


def _translated(document: Document, error: Exception) -> TemplateInvalid:
    """Say the library's first complaint in one line, with its place."""
    if not isinstance(error, DecodeValidationError):
        return document.fault((), f"not a valid template: {error}")
    head, *rest = str(error).splitlines()
    if not rest:
        return document.fault((), head)
    faults: list[tuple[Place, list[str]]] = []
    for line in rest:
        if line.startswith("\t") and faults:
            faults[-1][1].append(line.strip())
        else:
            faults.append((_place(line, document.value), []))
    place, told = faults[0]
    what = "; ".join(told) or "not valid"
    if len(faults) > 1:
        what += f" (and {len(faults) - 1} more)"
    return document.fault(place, what)


def _place(line: str, value: Any) -> Place:
    """Return the place that the library names, without the kinds of values that it puts between."""
    steps = [
        int(number) if number else name
        for step in line.rstrip(":").split(" -> ")
        for name, number in _PART.findall(step)
    ]
    found: list[str | int] = []
    for step in steps:
        is_key = isinstance(value, dict) and step in value
        is_index = isinstance(value, list) and isinstance(step, int) and step < len(value)
        if is_key or is_index:
            value = value[step]
        elif step is not steps[-1]:
            continue
        found.append(step)
    return tuple(found)
