"""From a template and what was typed beside it to the steps of a job, its inputs in the store."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

import msgspec

from p2prc.api.schema import TemplateRequest
from p2prc.daemon.orders import absolute_folder, check_writable, environment_of, workload_of
from p2prc.errors import FileUnknown, JobInvalid, PathInvalid
from p2prc.files.collect import collect_inputs, keep_tree
from p2prc.files.patterns import Patterns
from p2prc.model.identity import BlobId
from p2prc.model.job import Step
from p2prc.model.resources import Limits
from p2prc.model.tree import FileEntry, Tree, check_tree
from p2prc.model.workload import Workload
from p2prc.storage.blobs import BlobStore
from p2prc.templates.plan import Amounts, Order, PathUse, Plan, PlannedStep
from p2prc.templates.reading import read_template

RETRIES = 2


@dataclass(frozen=True, slots=True)
class WrittenJob:
    """What a template asks for, ready to be submitted."""

    name: str
    steps: tuple[Step, ...]
    to: Path
    notices: tuple[str, ...]


async def job_of_template(request: TemplateRequest, blobs: BlobStore, *, owner: str) -> WrittenJob:
    """Read the template and put its inputs into the store, pinned for the owner.

    Raises TemplateInvalid, JobInvalid, FileUnknown, PathInvalid, MachineCannot.
    """
    Patterns(request.outputs)
    for text in (request.folder, request.current):
        absolute_folder(text)
    plan = await read_template(
        Order(
            text=request.template,
            name=request.template_name,
            folder=request.folder,
            current=request.current,
            values=dict(request.values),
            values_text=request.values_text,
        )
    )
    to = _folder_for(plan, request)
    inputs = await asyncio.to_thread(_collect, plan, request, blobs, owner)
    environment = await environment_of(request.requirements)
    workload = workload_of(request, environment)
    return WrittenJob(
        name=(request.name or plan.name)[:200],
        steps=tuple(_step(planned, request, workload, inputs) for planned in plan.steps),
        to=to,
        notices=plan.notices,
    )


def _step(
    planned: PlannedStep, request: TemplateRequest, workload: Workload, inputs: BlobId | None
) -> Step:
    step, command = planned.step, planned.step.command
    if request.is_isolated and command.surroundings:
        raise JobInvalid(
            f"the step `{step.name}` has environments: they are kept from task to task",
            hint="leave `--isolate` out",
        )
    return msgspec.structs.replace(
        step,
        command=msgspec.structs.replace(
            command,
            inputs=inputs,
            outputs=(*command.outputs, *request.outputs),
            variables={**request.variables, **command.variables},
            timeout_s=command.timeout_s or request.timeout_s,
        ),
        workload=msgspec.structs.replace(
            workload, limits=_limits(workload.limits, planned.amounts, request)
        ),
        retries=RETRIES if request.retries is None else request.retries,
        is_isolated=request.is_isolated,
        verify=request.verify,
        pictures_within=request.pictures_within,
    )


def _limits(limits: Limits, amounts: Amounts, request: TemplateRequest) -> Limits:
    """Take what the template requires, and what was typed where that is more."""
    return msgspec.structs.replace(
        limits,
        cpu_millis=_more(limits.cpu_millis, amounts.cpu_millis, is_typed=request.cpus is not None),
        memory_bytes=_more(
            limits.memory_bytes, amounts.memory_bytes, is_typed=request.memory_bytes is not None
        ),
        disk_bytes=_more(
            limits.disk_bytes, amounts.disk_bytes, is_typed=request.disk_bytes is not None
        ),
        gpus=max(limits.gpus, amounts.gpus),
    )


def _more(usual: int, required: int, *, is_typed: bool) -> int:
    return max(usual, required) if is_typed or not required else required


# -- where results go, what goes along --------------------------------------------------------


def _folder_for(plan: Plan, request: TemplateRequest) -> Path:
    """Return the folder below which results keep their names: typed, or the template's own."""
    back = [path for path in plan.paths if path.flow != "IN"]
    if request.to is not None:
        folder = absolute_folder(request.to)
    elif not back and not request.outputs:
        return Path("/")
    else:
        parents = {str(Path(path.outside).parent) for path in back} or {request.current}
        if len(parents) > 1:
            told = ", ".join(f"`{path.outside}`" for path in back)
            raise JobInvalid(
                f"the template's results go to several places: {told}",
                hint="say one folder for all: `--to DIR`",
            )
        folder = absolute_folder(parents.pop())
    check_writable(folder)
    return folder


def _collect(plan: Plan, request: TemplateRequest, blobs: BlobStore, owner: str) -> BlobId | None:
    """Put every path that goes in into one tree, each at the place the template's texts name."""
    files: dict[str, FileEntry] = {}
    empty: set[str] = set()
    for path in plan.paths:
        if path.flow != "OUT":
            _add(files, empty, path, blobs, owner)
    if request.inputs:
        tree = collect_inputs(request.inputs, blobs, owner=owner)
        for entry in tree.files:
            if entry.path in files:
                raise PathInvalid(f"`{entry.path}` comes twice: by --in and by the template")
            files[entry.path] = entry
        empty |= set(tree.empty_folders)
    if not files and not empty:
        return None
    tree = Tree(tuple(files[name] for name in sorted(files)), tuple(sorted(empty)))
    check_tree(tree)
    return keep_tree(tree, blobs, owner).digest


def _add(
    files: dict[str, FileEntry], empty: set[str], path: PathUse, blobs: BlobStore, owner: str
) -> None:
    outside = Path(path.outside)
    if not outside.exists():
        raise FileUnknown(f"there is no `{path.outside}`, the parameter `{path.name}`")
    if outside.is_dir() != path.is_folder:
        kind = "a folder" if path.is_folder else "a file"
        raise PathInvalid(f"`{path.outside}`, the parameter `{path.name}`, is not {kind}")
    named = f"{path.outside}/" if path.is_folder else path.outside
    tree = collect_inputs([named], blobs, owner=owner)
    if not path.is_folder:
        [entry] = tree.files
        files[path.inside] = msgspec.structs.replace(entry, path=path.inside)
        return
    for entry in tree.files:
        inside = f"{path.inside}/{entry.path}"
        files[inside] = msgspec.structs.replace(entry, path=inside)
    empty |= {f"{path.inside}/{name}" for name in tree.empty_folders}
    if not tree.files and not tree.empty_folders:
        empty.add(path.inside)
