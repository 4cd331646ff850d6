"""The template that renders a scene, for each engine; what `render` submits is this and no more."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Literal

from p2prc.errors import JobInvalid, SceneInvalid
from p2prc.scenes.blend import BlenderVersion

Engine = Literal["blender", "mitsuba", "command"]
WHEELS = {
    "3.11": ("4.2", "4.3", "4.4", "4.5", "5.0"),
    "3.13": ("5.1", "5.2"),
}
"""Which Blender there is as a package, for which Python; one package runs on one Python alone."""
_PLACE = re.compile(r"\{(scene|frames|out)\}")
_PLACES = {
    "scene": "{{Param.Scene}}",
    "frames": "{{Task.Param.Frames}}",
    "out": "{{Param.Frames}}",
}


@dataclass(frozen=True, slots=True)
class Rendering:
    """What to render: absolute paths, the frames as a range like `1-250`, and how."""

    scene: str
    frames: str
    to: str
    engine: Engine = "blender"
    folder: str | None = None
    chunk: int = 1
    width: int | None = None
    height: int | None = None
    samples: int | None = None
    camera: str | None = None
    renderer: str | None = None
    device: Literal["auto", "cpu", "gpu"] = "auto"
    argv: Sequence[str] = ()

    @property
    def name(self) -> str:
        """The scene's own name."""
        return self.scene.rpartition("/")[2]

    @property
    def options(self) -> dict[str, Any]:
        """What the programs are told."""
        given = {
            "width": self.width,
            "height": self.height,
            "samples": self.samples,
            "camera": self.camera,
            "renderer": self.renderer,
            "device": self.device,
        }
        return {name: value for name, value in given.items() if value is not None}


def blender_requirement(made_by: BlenderVersion, wanted: str | None, python: str) -> str:
    """Return the package of the Blender that renders the scene: the one that wrote it.

    `wanted` is a version that somebody typed; `python` that of the nodes. Raises `SceneInvalid`,
    never chooses another one by itself.
    """
    version = wanted or str(made_by)
    if not re.fullmatch(r"[0-9]\.[0-9]{1,2}", version, re.ASCII):
        raise JobInvalid(f"not a version of Blender: `{version[:40]}`", hint="like `4.5`")
    offered = WHEELS.get(python, ())
    if version in offered:
        major, minor = map(int, version.split("."))
        return f"bpy>={version},<{major}.{minor + 1}"
    told = ", ".join(offered) or "none"
    other = next((each for each, versions in WHEELS.items() if version in versions), None)
    reason = f"with Python {python} there is: {told}"
    if other is not None:
        reason = f"Blender {version} needs Python {other}, here is {python}; {reason}"
    raise SceneInvalid(
        f"the scene is for Blender {version}: {reason}",
        hint="to open it with another one, say which: `--blender VERSION`",
    )


def template_of(rendering: Rendering) -> dict[str, Any]:
    """Return the Open Job Description template. Raises `JobInvalid`."""
    parameters, scene = _paths(rendering)
    step: dict[str, Any] = {"name": "render", "parameterSpace": _space(rendering)}
    match rendering.engine:
        case "blender":
            step |= _blender(rendering, scene)
        case "mitsuba":
            step |= _mitsuba(rendering, scene)
        case "command":
            step |= _command(rendering, scene)
    return {
        "specificationVersion": "jobtemplate-2023-09",
        "extensions": ["TASK_CHUNKING"],
        "name": f"render {rendering.name}"[:120].replace("{{", "").replace("}}", ""),
        "parameterDefinitions": parameters,
        "steps": [step],
    }


def values_of(rendering: Rendering) -> dict[str, str]:
    """Return the values of the template's parameters."""
    values = {"Scene": rendering.scene, "Frames": rendering.to}
    if rendering.folder is not None:
        values = {"Folder": rendering.folder, "Frames": rendering.to}
    return values


def _paths(rendering: Rendering) -> tuple[list[dict[str, Any]], str]:
    """Return the parameters, and what the scene is called in texts."""
    out = {"name": "Frames", "type": "PATH", "objectType": "DIRECTORY", "dataFlow": "OUT"}
    if rendering.folder is None:
        scene = {"name": "Scene", "type": "PATH", "objectType": "FILE", "dataFlow": "IN"}
        return [scene, out], "{{Param.Scene}}"
    prefix = rendering.folder.rstrip("/") + "/"
    if not rendering.scene.startswith(prefix):
        raise JobInvalid(f"the scene is not in the folder `{rendering.folder}`")
    inside = rendering.scene[len(prefix) :]
    if "{{" in inside or "}}" in inside:
        raise JobInvalid("a scene's path cannot contain `{{` or `}}`")
    folder = {"name": "Folder", "type": "PATH", "objectType": "DIRECTORY", "dataFlow": "IN"}
    return [folder, out], "{{Param.Folder}}/" + inside


def _space(rendering: Rendering) -> dict[str, Any]:
    frames: dict[str, Any] = {"name": "Frames", "type": "INT", "range": rendering.frames}
    if rendering.engine != "command" or rendering.chunk > 1:
        frames["type"] = "CHUNK[INT]"
        frames["chunks"] = {
            "defaultTaskCount": rendering.chunk,
            "rangeConstraint": "CONTIGUOUS",
        }
    return {"taskParameterDefinitions": [frames]}


def _program(name: str) -> dict[str, Any]:
    text = (files("p2prc.scenes.programs") / name).read_text("utf-8")
    return {"name": "Program", "type": "TEXT", "filename": name, "data": text}


def _blender(rendering: Rendering, scene: str) -> dict[str, Any]:
    """The scene is loaded once for each place, by what is entered; tasks ask for frames."""
    program = _program("blender_frames.py")
    options = json.dumps(rendering.options)
    enter = ["{{Env.File.Program}}", "enter", scene, _without_places(options)]
    ask = ["{{Task.File.Program}}", "frames", "{{Task.Param.Frames}}", "{{Param.Frames}}"]
    return {
        "stepEnvironments": [
            {
                "name": "Blender",
                "script": {
                    "embeddedFiles": [program],
                    "actions": {"onEnter": {"command": "python3", "args": enter}},
                },
            }
        ],
        "script": {
            "embeddedFiles": [program],
            "actions": {"onRun": {"command": "python3", "args": ask}},
        },
    }


def _mitsuba(rendering: Rendering, scene: str) -> dict[str, Any]:
    options = _without_places(json.dumps(rendering.options))
    places = ["{{Task.Param.Frames}}", "{{Param.Frames}}"]
    argv = ["{{Task.File.Program}}", "frames", scene, options, *places]
    return {
        "script": {
            "embeddedFiles": [_program("mitsuba_frames.py")],
            "actions": {"onRun": {"command": "python3", "args": argv}},
        }
    }


def _command(rendering: Rendering, scene: str) -> dict[str, Any]:
    if not rendering.argv:
        raise JobInvalid(
            "which command renders?",
            hint="put it after `--`: `--engine command -- CMD {scene} {frames} {out}`",
        )
    places = _PLACES | {"scene": scene}
    argv = []
    for word in rendering.argv:
        if "{{" in word or "}}" in word:
            raise JobInvalid("a command cannot contain `{{` or `}}`")
        argv.append(_PLACE.sub(lambda place: places[place[1]], word))
    run: dict[str, Any] = {"command": argv[0]}
    if len(argv) > 1:
        run["args"] = argv[1:]
    return {"script": {"actions": {"onRun": run}}}


def _without_places(text: str) -> str:
    """JSON may end with `}}`, which a template reads as the end of a place."""
    return text.replace("}}", "} }").replace("{{", "{ {")
