"""A template and its values become the steps of a job.

The library has seen that the document follows the specification; here it is read once more as
plain values, so that every refusal can name its place.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from p2prc.model.job import TASKS_LIMIT, Parameter, Step
from p2prc.model.surroundings import WORKING_FOLDER_PLACE, Action, Surroundings, WorkFile
from p2prc.model.workload import Command
from p2prc.protocol.jobs.parameters import task_count
from p2prc.templates.document import Document, Place
from p2prc.templates.needs import read_needs
from p2prc.templates.order import all_needed, in_order
from p2prc.templates.plan import Amounts, PathUse, Plan, PlannedStep
from p2prc.templates.spaces import read_space
from p2prc.templates.texts import RULES_FILE, Scope

STEPS_LIMIT = 100
LEAVE_TIMEOUT_S = 300.0
"""How long leaving may take when the template does not say, as the specification has it."""
_TASK_FOLDER = ".task"
_FILE_NAME = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_. -]{0,199}", re.ASCII)


@dataclass(slots=True)
class Translation:
    """One template on its way; `values` are the names that every text may use."""

    document: Document
    parameters: Mapping[str, tuple[str, str]]
    values: dict[str, str]
    paths: list[PathUse]
    notices: list[str]

    def scope(self, **more: Any) -> Scope:
        return Scope(self.document, self.values, has_rules=bool(self.paths), **more)


def translate(document: Document, parameters: Mapping[str, tuple[str, str]]) -> Plan:
    """Return the plan. Raises `TemplateInvalid` with the place of what is wrong or unsupported."""
    template = document.value
    begun = _begin(document, parameters)
    steps = template["steps"]
    if len(steps) > STEPS_LIMIT:
        raise document.fault(("steps",), f"{len(steps)} steps, at most {STEPS_LIMIT} are supported")
    planned: list[PlannedStep] = []
    total = 0
    order, needed = in_order(document, steps), all_needed(document, steps)
    makes_files = any(path.flow != "IN" for path in begun.paths)
    for number in order:
        step = _step(begun, steps[number], ("steps", number))
        if makes_files:
            needs = tuple(sorted(order.index(other) for other in needed[number]))
            step = msgspec.structs.replace(
                step, step=msgspec.structs.replace(step.step, needs=needs)
            )
        total += task_count(step.step)
        if total > TASKS_LIMIT:
            raise document.fault(
                ("steps", number, "parameterSpace"),
                f"the job has {total} tasks up to here, at most {TASKS_LIMIT} are allowed",
            )
        planned.append(step)
    name = begun.scope().text(template["name"], ("name",))
    return Plan(name[:200], tuple(planned), tuple(begun.paths), tuple(begun.notices[:20]))


# -- parameters and paths ---------------------------------------------------------------------


def _begin(document: Document, parameters: Mapping[str, tuple[str, str]]) -> Translation:
    begun = Translation(document, parameters, {}, [], [])
    for number, given in enumerate(document.value.get("parameterDefinitions") or ()):
        name = given["name"]
        kind, value = parameters[name]
        begun.values[f"RawParam.{name}"] = begun.values[f"Param.{name}"] = value
        if kind == "PATH":
            _path(begun, given, value, ("parameterDefinitions", number))
    return begun


def _path(begun: Translation, given: Mapping[str, Any], value: str, place: Place) -> None:
    name, flow = given["name"], given.get("dataFlow")
    if flow in (None, "NONE"):
        if flow is None and value:
            begun.notices.append(
                f"`{name}` has no `dataFlow`: `{value[:200]}` is not sent and not brought back"
            )
        return
    is_folder = given.get("objectType", "DIRECTORY") == "DIRECTORY"
    outside = posixpath.normpath(value)
    last = posixpath.basename(outside)
    if not last:
        raise begun.document.fault(place, f"`{outside}` cannot be sent or brought back")
    inside = _inside(name, last, flow, is_folder=is_folder)
    if any(_collide(inside, other.inside) for other in begun.paths):
        raise begun.document.fault(place, f"another path is called `{last}` too: rename one")
    begun.paths.append(PathUse(name, outside, inside, _flow(flow), is_folder))
    begun.values[f"Param.{name}"] = f"{WORKING_FOLDER_PLACE}/{inside}"


def _flow(text: str) -> Literal["IN", "OUT", "INOUT"]:
    return "IN" if text == "IN" else "OUT" if text == "OUT" else "INOUT"


def _inside(name: str, last: str, flow: str, *, is_folder: bool) -> str:
    """What comes in has a folder of its own; what goes back keeps its name."""
    if flow == "IN":
        return f"inputs/{name}" if is_folder else f"inputs/{name}/{last}"
    return last


def _collide(one: str, other: str) -> bool:
    return one == other or one.startswith(f"{other}/") or other.startswith(f"{one}/")


# -- steps ------------------------------------------------------------------------------------


def _step(begun: Translation, given: Mapping[str, Any], place: Place) -> PlannedStep:
    document = begun.document
    name = str(given["name"])
    parameters: tuple[Parameter, ...] = ()
    if given.get("parameterSpace") is not None:
        parameters = read_space(given["parameterSpace"], begun.scope(), (*place, "parameterSpace"))
    amounts = Amounts()
    if given.get("hostRequirements") is not None:
        here = (*place, "hostRequirements")
        amounts = read_needs(given["hostRequirements"], begun.scope(), here)
    around = [
        *_environments(begun, document.value.get("jobEnvironments"), ("jobEnvironments",), 0),
        *_environments(begun, given.get("stepEnvironments"), (*place, "stepEnvironments"), 50),
    ]
    scope = begun.scope(folder=_TASK_FOLDER, has_tasks=True, has_session=True)
    script, here = given.get("script"), (*place, "script")
    if not isinstance(script, dict):
        raise document.fault(here, "a step needs a script")
    files = _files(scope, script.get("embeddedFiles"), (*here, "embeddedFiles"))
    run = script["actions"]["onRun"]
    action = _action(begun, scope, run, (*here, "actions", "onRun"))
    files += _rules(begun, scope)
    variables: dict[str, str] = {}
    if all(each.enter is None and each.leave is None and not each.files for each in around):
        # Nothing has to be entered: no sandbox need be kept for that.
        for each in around:
            variables |= each.variables
        around = []
    back = [path for path in begun.paths if path.flow != "IN"]
    command = Command(
        argv=action.argv,
        variables=variables,
        outputs=tuple(_literal(path.inside) for path in back),
        timeout_s=action.timeout_s,
        tells_status=True,
        may_lack_outputs=True,
        folders=tuple(path.inside for path in back if path.is_folder),
        files=tuple(files),
        surroundings=tuple(around),
    )
    return PlannedStep(
        Step(name=name[:200], command=command, parameters=parameters, is_template=True), amounts
    )


def _literal(path: str) -> str:
    """Return a pattern that means this path alone."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in path)


def _environments(
    begun: Translation, given: Sequence[Mapping[str, Any]] | None, place: Place, first: int
) -> list[Surroundings]:
    found = []
    for number, each in enumerate(given or ()):
        here: Place = (*place, number)
        scope = begun.scope(folder=f".entered-{first + number}", has_session=True)
        script = each.get("script") or {}
        files = _files(scope, script.get("embeddedFiles"), (*here, "script", "embeddedFiles"))
        actions = script.get("actions") or {}
        spot: Place = (*here, "script", "actions")
        for key in actions:
            if key not in ("onEnter", "onExit"):
                raise begun.document.fault((*spot, key), "is not supported")
        enter, leave = (
            None if actions.get(key) is None else _action(begun, scope, actions[key], (*spot, key))
            for key in ("onEnter", "onExit")
        )
        variables = _variables(scope, each.get("variables") or {}, (*here, "variables"))
        files += _rules(begun, scope)
        if leave is not None and leave.timeout_s is None:
            leave = Action(leave.argv, LEAVE_TIMEOUT_S)
        found.append(Surroundings(str(each["name"])[:200], variables, tuple(files), enter, leave))
    return found


def _variables(scope: Scope, given: Mapping[str, Any], place: Place) -> dict[str, str]:
    for name in given:
        if len(name) > 100:
            raise scope.document.fault((*place, name), "a variable's name longer than 100")
    return {name: scope.text(text, (*place, name)) for name, text in given.items()}


def _files(scope: Scope, given: Sequence[Mapping[str, Any]] | None, place: Place) -> list[WorkFile]:
    """Write embedded files; every one may name all others."""
    prefix = "Task" if scope.has_tasks else "Env"
    names: set[str] = set()
    for number, each in enumerate(given or ()):
        filename = str(each.get("filename") or each["name"])
        is_plain = all(
            letter.isascii() and (letter.isalnum() or letter in "_. -") for letter in filename
        )
        if not is_plain or filename[0] in " -" or filename in (".", "..", RULES_FILE):
            raise scope.document.fault(
                (*place, number, "filename"), f"not a file's name here: {filename!r}"
            )
        if filename in names:
            raise scope.document.fault((*place, number), f"two files are called `{filename}`")
        names.add(filename)
        scope.files[f"{prefix}.File.{each['name']}"] = f"{scope.folder}/{filename}"
    return [
        WorkFile(
            scope.files[f"{prefix}.File.{each['name']}"],
            scope.text(each["data"], (*place, number, "data")),
            bool(each.get("runnable", False)),
        )
        for number, each in enumerate(given or ())
    ]


def _rules(begun: Translation, scope: Scope) -> list[WorkFile]:
    if "Session.PathMappingRulesFile" not in scope.used:
        return []
    rules = [
        {
            "source_path_format": "POSIX",
            "source_path": path.outside,
            "destination_path": f"{WORKING_FOLDER_PLACE}/{path.inside}",
        }
        for path in begun.paths
    ]
    content = {"version": "pathmapping-1.0", "path_mapping_rules": rules}
    return [WorkFile(f"{scope.folder}/{RULES_FILE}", json.dumps(content))]


def _action(begun: Translation, scope: Scope, given: Mapping[str, Any], place: Place) -> Action:
    argv = [scope.text(given["command"], (*place, "command"))]
    for number, each in enumerate(given.get("args") or ()):
        argv.append(scope.text(each, (*place, "args", number)))
    timeout_s = None
    if given.get("timeout") is not None:
        timeout_s = float(scope.integer(given["timeout"], (*place, "timeout")))
    cancelation = given.get("cancelation") or {}
    if cancelation.get("mode", "TERMINATE") != "TERMINATE":
        note = "an action that is cancelled is ended at once, whatever `cancelation` says"
        if note not in begun.notices:
            begun.notices.append(note)
    return Action(tuple(argv), timeout_s)
