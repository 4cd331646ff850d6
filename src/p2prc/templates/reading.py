"""Have a template read by a child process of our own, and take its answer."""

from __future__ import annotations

import asyncio
import sys

from p2prc.errors import MachineCannot, TemplateInvalid, WireError
from p2prc.templates.plan import (
    ANSWER_LIMIT_BYTES,
    TEMPLATE_LIMIT_BYTES,
    Fault,
    Order,
    Plan,
    answer_codec,
)
from p2prc.wire.codec import encode

CHILD_LIMIT_S = 40.0
_UNFORESEEN = (1, 120)
"""How Python ends after an exception; a limit ends it by a signal."""
_CHILD = ("-P", "-m", "p2prc.templates.child")


async def read_template(order: Order) -> Plan:
    """Return the plan. Raises TemplateInvalid with the place, MachineCannot."""
    if len(order.text.encode("utf-8", "surrogatepass")) > TEMPLATE_LIMIT_BYTES:
        raise TemplateInvalid(
            f"{order.name}: a template has at most {TEMPLATE_LIMIT_BYTES >> 20} MiB"
        )
    try:
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            *_CHILD,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            limit=ANSWER_LIMIT_BYTES,
        )
    except OSError as error:
        raise MachineCannot("a process to read the template cannot be started") from error
    try:
        async with asyncio.timeout(CHILD_LIMIT_S):
            answer, _ = await child.communicate(encode(order))
    except TimeoutError as error:
        raise _too_much(order.name) from error
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    if child.returncode in _UNFORESEEN:
        raise TemplateInvalid(
            f"{order.name}: the template cannot be read, and why is not known",
            hint="that is a fault of ours: report it, with the template",
        )
    if child.returncode != 0 or not answer:
        raise _too_much(order.name)
    try:
        found = answer_codec.decode(answer)
    except WireError as error:
        raise TemplateInvalid(f"{order.name}: {error.message}") from error
    if isinstance(found, Fault):
        raise TemplateInvalid(found.message, hint=found.hint or None)
    return found


def _too_much(name: str) -> TemplateInvalid:
    return TemplateInvalid(f"{name}: the template takes too much memory or time to read")
