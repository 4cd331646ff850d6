from __future__ import annotations

import msgspec
import pytest

from p2prc.errors import JobInvalid, P2prcError, PathInvalid
from p2prc.model.identity import NodeId
from p2prc.model.job import IntegerRange, IntegerSpan, Job, Parameter, Step, TextList
from p2prc.model.workload import Command, Workload
from p2prc.protocol.jobs.check import check_job
from p2prc.protocol.jobs.expansion import expand, expand_text
from p2prc.protocol.jobs.parameters import (
    Chunk,
    TaskSpace,
    parse_over,
    task_count,
    task_values,
    with_chunk,
)


def step(*parameters: Parameter, command: Command | None = None) -> Step:
    return Step("render", command or Command(("true",)), parameters=parameters)


def over(*texts: str) -> Step:
    return step(*map(parse_over, texts))


def values_of(text: str) -> list[object]:
    space = TaskSpace(over(text))
    return [next(iter(space.values(task).values())) for task in range(space.count)]


def job(*steps: Step) -> Job:
    return Job("frames", NodeId("a" * 64), "salt", steps)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("i=1-4", [1, 2, 3, 4]),
        ("i=1-10:4", [1, 5, 9]),
        ("i=0,3,9-12", [0, 3, 9, 10, 11, 12]),
        ("i=9-11,1", [9, 10, 11, 1]),
        ("i=-2-1", [-2, -1, 0, 1]),
        ("i=-3--2", [-3, -2]),
        ("i=7", [7]),
        ("i=a,b,c", ["a", "b", "c"]),
        ("i=day,2024-01-15", ["day", "2024-01-15"]),
        ("i=a=b", ["a=b"]),
    ],
)
def test_a_range_is_read_as_people_write_it(text: str, values: list[object]) -> None:
    assert values_of(text) == values


@pytest.mark.parametrize(
    "text",
    [
        "i",
        "=1-3",
        "1i=1",
        "i=",
        "i=1,,2",
        "i=5-1",
        "i=1-9:0",
        "i=1-5,3-9",
        "i=a,b,a",
        "i=001-010",
        "i=1-" + "9" * 30,
        "i=" + "x" * 1001,
    ],
)
def test_a_range_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(JobInvalid):
        parse_over(text)


def test_parameters_multiply_and_the_last_varies_fastest() -> None:
    product = over("scene=day,night", "i=1-3")
    assert task_count(product) == 6
    assert task_values(product, 0) == {"scene": "day", "i": 1}
    assert task_values(product, 1) == {"scene": "day", "i": 2}
    assert task_values(product, 5) == {"scene": "night", "i": 3}
    with pytest.raises(IndexError):
        task_values(product, 6)
    assert task_count(step()) == 1
    assert task_values(step(), 0) == {}


def test_a_chunk_joins_neighbours_and_never_crosses_a_gap() -> None:
    chunked = step(*with_chunk([parse_over("i=1-25,100,200-230:10")], 10))
    texts = [str(task_values(chunked, task)["i"]) for task in range(task_count(chunked))]
    assert texts == ["1-10", "11-20", "21-25", "100", "200-230:10"]


def test_a_chunk_needs_one_range_of_integers() -> None:
    for texts in (["s=a,b"], ["i=1-3", "j=1-3"]):
        with pytest.raises(JobInvalid):
            with_chunk(map(parse_over, texts), 2)
    with pytest.raises(JobInvalid):
        with_chunk([parse_over("i=1-3")], 0)


def test_a_billion_tasks_are_counted_without_being_listed() -> None:
    huge = over("i=1-1000000000", "j=1-1000000000")
    assert task_count(huge) == 10**18
    with pytest.raises(JobInvalid, match="at most 1000000"):
        check_job(job(huge))
    assert task_values(over("i=1-1000000"), 999_999) == {"i": 1_000_000}


def test_only_the_parameters_names_are_replaced() -> None:
    command = Command(
        ("awk", "{print}", '{"i": 1}', "{i}", "{i:04d}", "{i:03}", "{j}", "{{i}}", "{}", "{i"),
        variables={"FRAME": "{i}"},
        outputs=("out/{i:04d}.png",),
    )
    expanded = expand(command, {"i": 7})
    assert expanded.argv == (
        *("awk", "{print}", '{"i": 1}', "7", "0007", "007", "{j}", "{7}", "{}", "{i"),
    )
    assert expanded.variables == {"FRAME": "7"}
    assert expanded.outputs == ("out/0007.png",)


def test_a_chunk_is_padded_at_both_ends() -> None:
    assert expand_text("{i:04d}", {"i": Chunk(1, 10)}) == "0001-0010"
    assert expand_text("{i}", {"i": Chunk(-5, -1)}) == "-5--1"


@pytest.mark.parametrize("text", ["{i:1000000d}", "{i:s}", "{i:x}", "{i:.3f}", "{i:>9}", "{i: 3}"])
def test_other_formats_are_refused(text: str) -> None:
    with pytest.raises(JobInvalid):
        expand_text(text, {"i": 7})
    command = Command(("echo", text))
    with pytest.raises(JobInvalid):
        check_job(job(step(parse_over("i=1-3"), command=command)))


def test_a_text_has_no_format() -> None:
    assert expand_text("{s}", {"s": "day"}) == "day"
    with pytest.raises(JobInvalid):
        expand_text("{s:04d}", {"s": "day"})


def test_a_value_cannot_smuggle_a_second_place_in() -> None:
    assert expand_text("{a}{b}", {"a": "{b}", "b": "x"}) == "{b}x"


FRAMES = parse_over("i=1-3")


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (job(step(FRAMES, FRAMES)), JobInvalid),
        (job(step(FRAMES), step(FRAMES)), JobInvalid),
        (job(step(IntegerRange("i", (IntegerSpan(3, 1),)))), JobInvalid),
        (job(step(IntegerRange("i", ()))), JobInvalid),
        (job(step(IntegerRange("no-name", (IntegerSpan(1, 3),)))), JobInvalid),
        (job(step(TextList("s", ()))), JobInvalid),
        (job(), JobInvalid),
        (job(step(command=Command(()))), JobInvalid),
        (job(step(command=Command(("a\0b",)))), JobInvalid),
        (job(step(command=Command(("a\ud800b",)))), JobInvalid),
        (job(step(TextList("s", ("x" * 1000,)), command=Command(("{s}" * 1000,)))), JobInvalid),
        (job(step(command=Command(tuple(["x" * 100_000] * 10)))), JobInvalid),
        (job(step(command=Command(("true",), outputs=("../x",)))), PathInvalid),
        (job(step(command=Command(("true",), outputs=("/etc/passwd",)))), PathInvalid),
    ],
)
def test_a_job_that_could_not_run_is_refused_before_it_starts(
    bad: Job, error: type[P2prcError]
) -> None:
    with pytest.raises(error):
        check_job(bad)


def test_a_sound_job_passes() -> None:
    command = Command(("render", "{i:04d}", "{s}"), outputs=("out/{i}.png", "logs/**"))
    check_job(job(step(FRAMES, parse_over("s=day,night"), command=command)))


def test_tasks_that_are_isolated_have_no_bridge() -> None:
    bridged = msgspec.structs.replace(over("i=1-2"), workload=Workload(network="bridge"))
    check_job(job(bridged))
    with pytest.raises(JobInvalid, match="none has a bridge"):
        check_job(job(msgspec.structs.replace(bridged, is_isolated=True)))
