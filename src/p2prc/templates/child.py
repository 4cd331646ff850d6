"""The child that reads one template: an order on its input, a plan or a fault on its output.

It runs with little memory and time, because the library lists what a template describes.
"""

from __future__ import annotations

import resource
import sys

from p2prc.errors import P2prcError
from p2prc.templates import openjd
from p2prc.templates.document import Document, read_document, read_values
from p2prc.templates.order import in_order
from p2prc.templates.plan import ORDER_LIMIT_BYTES, Fault, Order, Plan, answer_codec, order_codec
from p2prc.templates.translate import translate
from p2prc.wire.codec import encode

MEMORY_LIMIT_BYTES = 1 << 30
TIME_LIMIT_S = 20


def main() -> None:
    """Answer one order."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT_BYTES, MEMORY_LIMIT_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (TIME_LIMIT_S, TIME_LIMIT_S))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    given = sys.stdin.buffer.read(ORDER_LIMIT_BYTES + 1)
    answer: Plan | Fault
    try:
        answer = plan_of(order_codec.decode(given))
        written = encode(answer)
        answer_codec.decode(written)
    except P2prcError as error:
        written = encode(Fault(error.message[:2000], (error.hint or "")[:1000]))
    except (MemoryError, RecursionError):
        written = encode(Fault("the template takes too much memory to read"))
    sys.stdout.buffer.write(written)


def plan_of(order: Order) -> Plan:
    """Read a template. Raises `TemplateInvalid`."""
    document = read_document(order.text, order.name)
    _check_steps(document)
    template = openjd.decode(document)
    given = read_values(order.values_text, "values") if order.values_text.strip() else {}
    values = openjd.parameter_values(
        template, given | order.values, document, folder=order.folder, current=order.current
    )
    plan = translate(document, values)
    openjd.check_job(template, {name: value for name, (_, value) in values.items()}, document)
    return plan


def _check_steps(document: Document) -> None:
    """Look for circles first: the library stumbles over them."""
    steps = document.value.get("steps")
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        return
    for step in steps:
        needed = step.get("dependencies") or []
        if not isinstance(needed, list) or not all(isinstance(each, dict) for each in needed):
            return
    in_order(document, steps)


if __name__ == "__main__":
    main()
