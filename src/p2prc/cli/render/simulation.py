"""A simulation's report as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from p2prc.simulation import Convergence, Report, Verdict

_UNSETTLED = "not in time"


def report_text(report: Report) -> str:
    """Return what a person wants to know of a run."""
    facts = [
        (
            "nodes",
            f"{report.nodes} for {report.duration_s:g} s: {report.node_hours:.3g} node-hours",
        ),
        ("wrong pictures at the end", str(report.wrong_at_end)),
        ("nodes wrongly suspected", _wronged(report, report.false_suspicions)),
        ("nodes wrongly held dead", _wronged(report, report.false_deaths)),
        ("sent by a node", f"{_size(report.bytes_per_node_per_s)}/s"),
        ("sent by the busiest node", f"{_size(report.bytes_per_node_per_s_max)}/s"),
        ("sent in the second half", f"{_size(report.idle_bytes_per_node_per_s)}/s"),
        ("messages of a node", f"{report.messages_per_node_per_s:.3g}/s"),
        ("connections of a node", f"{report.connections_mean:.3g}"),
    ]
    if report.relayed_bytes:
        facts.append(
            (
                "through relays",
                f"{_size(report.relayed_bytes)},"
                f" {report.connections_relayed_share:.0%} of the connections",
            )
        )
    facts += [(f"refused: {reason}", str(count)) for reason, count in report.refusals.items()]
    facts.append(("trace", report.trace[:16]))
    width = max(len(title) for title, _ in facts)
    parts = [
        f"{report.scenario}, seed {report.seed}",
        *(f"  {title:<{width}}  {value}" for title, value in facts),
        "",
        "known to all after",
        *map(_convergence, report.convergence),
    ]
    if report.checks:
        parts += ["", "checks", *map(_check, report.checks)]
    return "\n".join(parts)


def _wronged(report: Report, count: int) -> str:
    return f"{count}, {count / report.node_hours * 1000:.3g} in 1,000 node-hours"


def _convergence(found: Convergence) -> str:
    times = f" ({found.count} times)" if found.count > 1 else ""
    if found.median_s is None:
        return f"  {found.name + times:<24}  {_UNSETTLED}"
    text = f"half {_seconds(found.half_s)}, all {_seconds(found.median_s)}"
    if found.count > 1:
        text += f", slowest {_seconds(found.slowest_s)}"
    if found.overtaken:
        text += f"; {found.overtaken} {_UNSETTLED}"
    return f"  {found.name + times:<24}  {text}"


def _check(check: Verdict) -> str:
    value = _UNSETTLED if check.value is None else f"{check.value:.4g} {check.unit}".strip()
    verdict = "ok" if check.ok else "not ok"
    limit = f"{check.at_most:g} {check.unit}".strip()
    return f"  {verdict:<6}  {check.title}: {value}, at most {limit}"


def _seconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.2f} s"


def _size(size_bytes: float) -> str:
    """Return bytes in powers of a thousand, as lines are measured."""
    for unit in ("B", "kB", "MB"):
        if size_bytes < 1000:
            return f"{size_bytes:.3g} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.3g} GB"
