"""Claims about templates: what becomes of them, and what is refused, with its place."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from p2prc.errors import TemplateInvalid
from p2prc.model.job import Association, IntegerRange, IntegerSpan
from p2prc.protocol.jobs.expansion import expand
from p2prc.protocol.jobs.parameters import TaskSpace, task_count
from p2prc.templates.child import plan_of
from p2prc.templates.document import read_document, read_values
from p2prc.templates.plan import Amounts, Order, Plan
from p2prc.templates.reading import read_template

EXAMPLES = Path(__file__).parents[2] / "examples" / "templates"


def template(**changes: Any) -> dict[str, Any]:
    return {
        "specificationVersion": "jobtemplate-2023-09",
        "name": "a job",
        "steps": [step()],
    } | changes


def step(name: str = "one", **changes: Any) -> dict[str, Any]:
    return {"name": name, "script": {"actions": {"onRun": {"command": "true"}}}} | changes


def over(*definitions: dict[str, Any], combination: str | None = None) -> dict[str, Any]:
    space: dict[str, Any] = {"taskParameterDefinitions": list(definitions)}
    return step(parameterSpace=space | ({"combination": combination} if combination else {}))


def plan(document: dict[str, Any] | str, **values: str) -> Plan:
    text = document if isinstance(document, str) else yaml.safe_dump(document)
    return plan_of(Order(text, "t.yaml", "/somewhere", "/here", values))


def refusal(document: dict[str, Any] | str, **values: str) -> str:
    with pytest.raises(TemplateInvalid) as caught:
        plan(document, **values)
    return caught.value.message


def example(name: str) -> Plan:
    path = EXAMPLES / name
    return plan_of(Order(path.read_text(), name, str(EXAMPLES), str(EXAMPLES)))


# -- what it becomes --------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("*.[yj]*")))
def test_every_example_is_understood(name: str) -> None:
    assert sum(task_count(planned.step) for planned in example(name).steps)


def test_every_way_to_write_a_space_gives_its_tasks() -> None:
    steps = {planned.step.name: planned.step for planned in example("spaces.yaml").steps}
    found = {}
    for name, each in steps.items():
        space = TaskSpace(each)
        tasks = [space.values(task) for task in range(space.count)]
        found[name] = [" ".join(map(str, values.values())) for values in tasks]
    assert found["ranges"] == ["2", "3", "4", "50", "60", "80", "100"]
    assert found["listed"] == ["1", "3", "9"]
    elsewhere = f"{EXAMPLES}/elsewhere"
    assert found["kinds"] == [
        "one 1 /a/file", f"one 2.5 {elsewhere}",
        "two, three 1 /a/file", f"two, three 2.5 {elsewhere}",
    ]  # fmt: skip
    assert found["together"] == ["1 a x", "2 a y", "3 b x", "4 b y"]
    assert found["chunked"] == ["1-5:2", "7-9:2"]


def test_chunks_are_intervals_and_values_go_into_files_of_the_task() -> None:
    [planned] = example("frames.yaml").steps
    space = TaskSpace(planned.step)
    assert space.count == 3
    command = expand(planned.step.command, space.values(2), is_template=True)
    [file] = command.files
    assert "frames=5-6" in file.content
    assert file.is_executable
    assert command.outputs == ("frames",)
    assert command.timeout_s == 60


def test_a_chunk_of_one_is_still_an_interval() -> None:
    definition = {
        "name": "F", "type": "CHUNK[INT]", "range": "1-3",
        "chunks": {"defaultTaskCount": 2, "rangeConstraint": "CONTIGUOUS"},
    }  # fmt: skip
    [planned] = plan(template(extensions=["TASK_CHUNKING"], steps=[over(definition)])).steps
    space = TaskSpace(planned.step)
    assert [str(space.values(task)["F"]) for task in range(2)] == ["1-2", "3-3"]


def test_steps_come_after_what_they_depend_on_and_associations_move_together() -> None:
    study = example("study.json")
    assert [planned.step.name for planned in study.steps] == ["measure", "report"]
    measure = study.steps[0].step
    assert isinstance(measure.parameters[0], Association)
    space = TaskSpace(measure)
    assert [tuple(map(str, space.values(task).values())) for task in range(space.count)] == [
        ("small", "0.10", "1"), ("small", "0.10", "2"),
        ("large", "0.01", "1"), ("large", "0.01", "2"),
    ]  # fmt: skip


def test_an_environment_with_actions_is_entered_and_its_files_are_named_in_it() -> None:
    [planned] = example("server.yaml").steps
    [around] = planned.step.command.surroundings
    assert around.variables == {"LANGUAGE": "en"}
    assert around.enter is not None
    assert around.enter.argv[1].endswith("/serve.py")
    assert around.enter.argv[2] == "{{Session.WorkingDirectory}}/inputs/Words/words.txt"
    assert around.enter.timeout_s == 30
    assert around.leave is not None
    assert around.leave.timeout_s == 300
    assert planned.amounts == Amounts(cpu_millis=1000, memory_bytes=256 << 20)


def test_variables_alone_need_no_entering() -> None:
    [planned] = plan(template(jobEnvironments=[{"name": "e", "variables": {"A": "b"}}])).steps
    assert planned.step.command.variables == {"A": "b"}
    assert not planned.step.command.surroundings


def test_ranges_are_read_as_the_specification_writes_them() -> None:
    definition = {"name": "I", "type": "INT", "range": "20-10:-5, 1-{{Param.End}}"}
    ends = [{"name": "End", "type": "INT"}]
    [planned] = plan(template(parameterDefinitions=ends, steps=[over(definition)]), End="3").steps
    [parameter] = planned.step.parameters
    assert parameter == IntegerRange("I", (IntegerSpan(1, 3), IntegerSpan(10, 20, 5)))


def test_paths_go_in_and_out_by_their_data_flow() -> None:
    definitions = [
        {"name": "In", "type": "PATH", "dataFlow": "IN", "objectType": "FILE", "default": "a/s.b"},
        {"name": "Out", "type": "PATH", "dataFlow": "OUT", "default": "made"},
        {"name": "Text", "type": "PATH", "default": "x"},
    ]
    action = {"command": "c", "args": ["{{Param.In}}", "{{RawParam.In}}", "{{Param.Text}}"]}
    found = plan(
        template(
            parameterDefinitions=definitions,
            steps=[step(script={"actions": {"onRun": action}})],
        )
    )
    assert [(path.outside, path.inside, path.flow) for path in found.paths] == [
        ("/somewhere/a/s.b", "inputs/In/s.b", "IN"),
        ("/somewhere/made", "made", "OUT"),
    ]
    [planned] = found.steps
    assert planned.step.command.argv == (
        "c", "{{Session.WorkingDirectory}}/inputs/In/s.b", "/somewhere/a/s.b", "/somewhere/x",
    )  # fmt: skip
    assert planned.step.command.folders == ("made",)
    assert any("`Text` has no `dataFlow`" in notice for notice in found.notices)


def test_rules_for_paths_are_written_where_they_are_asked_for() -> None:
    definitions = [{"name": "In", "type": "PATH", "dataFlow": "IN", "default": "scene"}]
    action = {"command": "c", "args": ["{{Session.PathMappingRulesFile}}"]}
    steps = [step(script={"actions": {"onRun": action}})]
    [planned] = plan(template(parameterDefinitions=definitions, steps=steps)).steps
    [rules] = planned.step.command.files
    assert planned.step.command.argv[1] == f"{{{{Session.WorkingDirectory}}}}/{rules.path}"
    assert '"source_path": "/somewhere/scene"' in rules.content


def test_values_come_from_a_file_and_what_is_typed_comes_first() -> None:
    definitions = [{"name": name, "type": "STRING"} for name in ("A", "B")]
    action = {"command": "{{Param.A}}{{Param.B}}"}
    document = template(
        parameterDefinitions=definitions, steps=[step(script={"actions": {"onRun": action}})]
    )
    order = Order(
        yaml.safe_dump(document), "t.yaml", "/", "/", {"B": "typed"}, values_text="A: 7\nB: file"
    )
    assert plan_of(order).steps[0].step.command.argv == ("7typed",)
    assert read_values("A: 1.5", "v.yaml") == {"A": "1.5"}


def test_what_moves_together_may_be_a_product() -> None:
    definitions: list[dict[str, Any]] = [
        {"name": "A", "type": "INT", "range": "1-4"},
        {"name": "B", "type": "STRING", "range": ["x", "y"]},
        {"name": "C", "type": "STRING", "range": ["p", "q"]},
    ]
    [planned] = plan(template(steps=[over(*definitions, combination="(A, B*C)")])).steps
    space = TaskSpace(planned.step)
    told = ["".join(map(str, space.values(task).values())) for task in range(space.count)]
    assert told == ["1xp", "2xq", "3yp", "4yq"]


def test_a_largest_amount_caps_what_is_usual() -> None:
    amounts = [
        {"name": "amount.worker.vcpu", "min": 0.5, "max": 1},
        {"name": "amount.worker.memory", "max": 512},
    ]
    [planned] = plan(template(steps=[step(hostRequirements={"amounts": amounts})])).steps
    assert planned.amounts == Amounts(cpu_millis=500, memory_bytes=512 << 20)


# -- what is refused --------------------------------------------------------------------------


def integer(**changes: Any) -> dict[str, Any]:
    return {"name": "I", "type": "INT", "range": "1-3"} | changes


CHUNKS = {"defaultTaskCount": 10, "rangeConstraint": "CONTIGUOUS"}


@pytest.mark.parametrize(
    ("document", "told"),
    [
        (template(steps=[over(integer(range="1-1000000000"))]), "1000000000 tasks"),
        (
            template(steps=[over(*(integer(name=name, range="1-9999") for name in "ABC"))]),
            "999700029999 tasks",
        ),
        (
            template(
                extensions=["TASK_CHUNKING"],
                steps=[over(integer(type="CHUNK[INT]", range="1-1000000000000", chunks=CHUNKS))],
            ),
            "100000000000 tasks",
        ),
        (template(steps=[over(integer(range="10-1"))]), "steps[0]"),
        (template(steps=[over(integer(range="1-5,3-9"))]), "steps[0]"),
        (template(nonsense=1), "nonsense"),
        (template(steps=[step(dependencies=[{"dependsOn": "one"}])]), "circle"),
        (
            template(
                steps=[
                    step("a", dependencies=[{"dependsOn": "b"}]),
                    step("b", dependencies=[{"dependsOn": "a"}]),
                ]
            ),
            "a circle: a needs b needs a",
        ),
        (template(steps=[step(dependencies=[{"dependsOn": "two"}])]), "no step `two`"),
        (template(extensions=["EXPR"]), "Unsupported extension names: EXPR"),
        (
            template(steps=[step(script={"actions": {"onRun": {"command": "{{Task.Param.X}}"}}})]),
            "Task.Param.X",
        ),
        (
            template(
                steps=[
                    step(
                        hostRequirements={
                            "attributes": [{"name": "attr.worker.cpu.arch", "anyOf": ["arm64"]}]
                        }
                    )
                ]
            ),
            "attr.worker.cpu.arch",
        ),
        (
            template(
                steps=[
                    step(
                        hostRequirements={
                            "amounts": [{"name": "amount.worker.gpu.memory", "min": 3}]
                        }
                    )
                ]
            ),
            "amount.worker.gpu.memory",
        ),
        (
            template(
                steps=[
                    over(
                        integer(name="A", range=[1, 2]),
                        integer(name="B", range=[1]),
                        integer(name="C", range=[1, 2]),
                        combination="(A, (B, C))",
                    )
                ]
            ),
            "steps[0]",
        ),
        (template(parameterDefinitions=[{"name": "A", "type": "INT"}]), "A"),
        (template(steps=[]), "steps"),
        ({"specificationVersion": "jobtemplate-1999", "name": "x"}, "jobtemplate-1999"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_it_is_refused_with_its_place(document: dict[str, Any], told: str) -> None:
    message = refusal(document)
    assert message.startswith("t.yaml")
    assert told in message


def test_the_line_is_told() -> None:
    text = yaml.safe_dump(template(steps=[step(), step("two", wrong=1)]), sort_keys=False)
    line = text.splitlines().index("  wrong: 1") + 1
    assert refusal(text).startswith(f"t.yaml:{line}: steps[1].wrong: ")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "empty"),
        ("just a text", "no keys"),
        ("a: [1", "t.yaml:1: "),
        ("a: 1\na: 2", "t.yaml:2: the key `a` comes twice"),
        ("a: &x [*x]", "contains itself"),
        ("a: !!python/object/apply:os.system ['true']", "unknown kind"),
        ("a: !local 1", "unknown kind"),
        ("a: " + "[" * 100 + "]" * 100, "nested deeper"),
        ("b: &b {c: 1}\na: {<<: *b}", "merged keys"),
        ("a: .inf", "not a number"),
        ("\x00", "t.yaml"),
    ],
)
def test_a_bad_document_is_refused(text: str, told: str) -> None:
    with pytest.raises(TemplateInvalid, match="yaml") as caught:
        read_document(text, "t.yaml")
    assert told in caught.value.message


def test_aliases_that_unfold_to_a_billion_values_are_counted_not_unfolded() -> None:
    lines = ["a: &a [x, x, x, x, x, x, x, x, x, x]"]
    names = "abcdefghijk"
    for before, name in pairwise(names):
        lines.append(f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]")
    with pytest.raises(TemplateInvalid, match="more than 200000 values"):
        read_document("\n".join(lines), "t.yaml")


def test_json_is_read_with_its_lines_and_keys_that_come_twice_are_refused() -> None:
    document = read_document('{\n\t"a": {\n\t\t"b": "\\ud83d\\ude00"}\n}', "t.json")
    assert document.value == {"a": {"b": "😀"}}
    assert document.at(("a", "b")) == "t.json:3: a.b"
    with pytest.raises(TemplateInvalid, match="`a` comes twice"):
        read_document('{"a": 1, "a": 2}', "t.json")


# -- the child --------------------------------------------------------------------------------


def test_the_child_answers_with_the_plan_or_the_fault() -> None:
    async def both() -> None:
        order = Order(yaml.safe_dump(template()), "t.yaml", "/", "/")
        assert (await read_template(order)).name == "a job"
        with pytest.raises(TemplateInvalid, match="not a template"):
            await read_template(Order("text", "t.yaml", "/", "/"))

    asyncio.run(both())


def test_a_huge_template_is_refused_before_a_child_is_started() -> None:
    with pytest.raises(TemplateInvalid, match="at most 1 MiB"):
        asyncio.run(read_template(Order("#" * (1 << 20) + "#", "t.yaml", "/", "/")))
