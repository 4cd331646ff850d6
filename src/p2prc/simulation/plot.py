"""A report as a picture: who knows, and what it costs, over time. The only importer of Pillow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO

from PIL import Image, ImageDraw, ImageFont

from p2prc.simulation.report import Milestone, Report

WIDTH, HEIGHT = 1200, 760
_FINE = 3
"""Lines are drawn so many times larger and then made smaller, which smooths them."""
_LEFT, _RIGHT = 84, 28
_INK, _FAINT, _GRID = "#1d2733", "#667584", "#dfe5ea"
_KNOWS, _PAIRS, _BYTES, _RELAYED = "#0b6e99", "#8fc3d9", "#b5541c", "#7a4fa3"
_MARKS_LIMIT = 12
Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class _Panel:
    """One diagram: where it is, and the largest value of its axis."""

    top: int
    bottom: int
    end_s: float
    largest: float

    def at(self, at_s: float, value: float) -> Point:
        across = _LEFT + at_s / self.end_s * (WIDTH - _LEFT - _RIGHT)
        return across, self.bottom - min(value / self.largest, 1.0) * (self.bottom - self.top)


def draw(report: Report) -> bytes:
    """Return the picture as PNG."""
    most = max((sample.bytes_per_node_per_s for sample in report.samples), default=1.0)
    knowing = _Panel(112, 384, report.duration_s, 1.0)
    sending = _Panel(484, 690, report.duration_s, _round_up(max(most, 1.0)))
    image = Image.new("RGB", (WIDTH * _FINE, HEIGHT * _FINE), "white")
    _lines(ImageDraw.Draw(image), report, knowing, sending)
    image = image.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)
    _words(ImageDraw.Draw(image), report, knowing, sending)
    file = BytesIO()
    image.save(file, format="PNG", optimize=True)
    return file.getvalue()


# -- lines --


def _lines(pen: ImageDraw.ImageDraw, report: Report, knowing: _Panel, sending: _Panel) -> None:
    for panel in (knowing, sending):
        for part in range(5):
            _line(
                pen,
                [
                    panel.at(0, panel.largest * part / 4),
                    panel.at(panel.end_s, panel.largest * part / 4),
                ],
                _GRID,
                1,
            )
        for milestone in _marked(report):
            mark = [panel.at(milestone.at_s, 0), panel.at(milestone.at_s, panel.largest)]
            _line(pen, mark, "#c7ced5", 1)
    samples = report.samples
    _line(pen, [knowing.at(one.at_s, one.right_pairs) for one in samples], _PAIRS, 2)
    _line(pen, [knowing.at(one.at_s, one.right) for one in samples], _KNOWS, 3)
    _line(pen, [sending.at(one.at_s, one.bytes_per_node_per_s) for one in samples], _BYTES, 2)
    if report.relayed_bytes:
        relayed = [sending.at(one.at_s, one.relayed_bytes_per_node_per_s) for one in samples]
        _line(pen, relayed, _RELAYED, 2)


def _line(pen: ImageDraw.ImageDraw, points: Sequence[Point], colour: str, width: int) -> None:
    fine = [(across * _FINE, down * _FINE) for across, down in points]
    if len(fine) > 1:
        pen.line(fine, fill=colour, width=width * _FINE, joint="curve")


# -- words --


def _words(pen: ImageDraw.ImageDraw, report: Report, knowing: _Panel, sending: _Panel) -> None:
    title = f"{report.scenario}: {report.nodes:,} nodes, seed {report.seed}"
    _text(pen, (_LEFT, 22), title, size=24)
    _text(pen, (_LEFT, 54), _summary(report), size=14, colour=_FAINT)
    _legend(
        pen,
        knowing.top - 26,
        [("nodes that know everything", _KNOWS), ("of all there is to know, known", _PAIRS)],
    )
    legend = [("bytes sent by a node, each second", _BYTES)]
    if report.relayed_bytes:
        legend.append(("of that through relays", _RELAYED))
    _legend(pen, sending.top - 26, legend)
    for panel in (knowing, sending):
        for part in range(5):
            value = panel.largest * part / 4
            label = f"{value:.0%}" if panel is knowing else _size(value)
            _text(pen, (_LEFT - 10, panel.at(0, value)[1]), label, size=13, anchor="rm")
        for at_s in _ticks(panel.end_s):
            at = (panel.at(at_s, 0)[0], panel.bottom + 14)
            _text(pen, at, f"{at_s:g} s", size=13, anchor="mm", colour=_FAINT)
    _marks(pen, report, knowing)


def _marks(pen: ImageDraw.ImageDraw, report: Report, panel: _Panel) -> None:
    """Name what happened below the upper diagram; names that would overlap go a line lower."""
    ends = [0.0, 0.0, 0.0]
    font = ImageFont.load_default(size=13)
    for milestone in _marked(report):
        taken = milestone.settled_after_s
        name = milestone.name + (f" +{taken:.2f} s" if taken is not None else " (open)")
        across = min(panel.at(milestone.at_s, 0)[0], WIDTH - _RIGHT - pen.textlength(name, font))
        row = next((row for row, end in enumerate(ends) if end < across), 2)
        ends[row] = across + pen.textlength(name, font) + 12
        _text(pen, (across, panel.bottom + 34 + 16 * row), name, size=13, anchor="lm")


def _marked(report: Report) -> list[Milestone]:
    """Return what is worth a line: nobody can tell a hundred from each other."""
    found = list(report.milestones)
    return found if len(found) <= _MARKS_LIMIT else []


def _summary(report: Report) -> str:
    facts = [
        f"a node sends {_size(report.bytes_per_node_per_s)}/s"
        f" (at most {_size(report.bytes_per_node_per_s_max)}/s)",
        f"{report.false_suspicions} nodes wrongly suspected",
        f"{report.false_deaths} wrongly held dead in {report.node_hours:.3g} node-hours",
    ]
    if report.relayed_bytes:
        facts.append(f"{_size(report.relayed_bytes)} relayed")
    return ", ".join(facts)


def _legend(pen: ImageDraw.ImageDraw, middle: int, entries: list[tuple[str, str]]) -> None:
    across: float = _LEFT
    font = ImageFont.load_default(size=14)
    for name, colour in entries:
        pen.rectangle((across, middle - 2, across + 22, middle + 2), fill=colour)
        _text(pen, (across + 30, middle), name, size=14, anchor="lm")
        across += 30 + pen.textlength(name, font) + 28


def _text(
    pen: ImageDraw.ImageDraw,
    at: Point,
    text: str,
    *,
    size: int,
    anchor: str = "lt",
    colour: str = _INK,
) -> None:
    pen.text(at, text, font=ImageFont.load_default(size=size), fill=colour, anchor=anchor)


def _size(size_bytes: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size_bytes < 1000 or unit == "GB":
            return f"{size_bytes:.3g} {unit}"
        size_bytes /= 1000
    raise AssertionError


def _ticks(end_s: float) -> list[float]:
    """Return round numbers of seconds, at most nine, from the beginning to the end."""
    scale = 1e-6
    while scale * 40 < end_s:
        scale *= 10
    step = next(scale * part for part in (1, 2, 5, 10) if end_s <= scale * part * 8)
    return [round(step * part, 6) for part in range(int(end_s / step + 1e-9) + 1)]


def _round_up(value: float) -> float:
    """Return the next larger number that divides well by four."""
    scale = 1.0
    while scale * 10 <= value:
        scale *= 10
    return next(scale * step for step in (1, 2, 4, 8, 10, 20) if scale * step >= value)
