"""Render frames of a Blender scene that is loaded once; runs in a sandbox, nothing of p2prc.

`enter SCENE OPTIONS` starts a server that loads the scene and stays; `frames A-B FOLDER` has it
render. A server that died is started once more by whoever asks next.
"""

from __future__ import annotations

import glob
import json
import os
import socket
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

SOCKET = ".blender.sock"
ORDERS = ".blender.json"
LOG = ".blender.log"
READY_S = 900
FRAME_S = 6 * 3600
OTHER_FILES = ("fonts", "movieclips", "volumes", "cache_files")
GPU_KINDS = ("OPTIX", "CUDA", "HIP", "ONEAPI", "METAL")


# -- those who ask ----------------------------------------------------------------------------


def enter(scene: str, options: str) -> None:
    """Remember what to render, and start the server."""
    Path(ORDERS).write_text(json.dumps({"scene": scene, "options": json.loads(options)}))
    start_server()


def start_server() -> None:
    """Start it and wait until the scene is loaded; fail with what it says."""
    Path(SOCKET).unlink(missing_ok=True)
    began = time.monotonic()
    with Path(LOG).open("ab") as log:
        server = subprocess.Popen(
            [sys.executable, __file__, "serve"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    while not Path(SOCKET).exists():
        if server.poll() is not None:
            fail("Blender does not start")
        if time.monotonic() - began > READY_S:
            fail(f"the scene is not loaded after {READY_S} s")
        time.sleep(0.05)
    print(f"openjd_status: scene loaded in {time.monotonic() - began:.1f} s", flush=True)


def frames(chunk: str, folder: str) -> None:
    """Have the frames rendered, and tell how it goes."""
    first, _, last = chunk.partition("-")
    server = socket.socket(socket.AF_UNIX)
    server.settimeout(FRAME_S)
    try:
        server.connect(SOCKET)
    except OSError:
        server.close()
        start_server()
        server = socket.socket(socket.AF_UNIX)
        server.settimeout(FRAME_S)
        server.connect(SOCKET)
    order = {"first": int(first), "last": int(last or first), "folder": folder}
    server.sendall(json.dumps(order).encode() + b"\n")
    is_done = False
    for line in server.makefile("r"):
        print(line, end="", flush=True)
        is_done = line.startswith("done")
        if line.startswith("openjd_fail"):
            sys.exit(1)
    if not is_done:
        fail("Blender ended while it rendered")


def fail(what: str) -> None:
    """End with a reason: the last complaint in the server's log, if there is one."""
    lines = Path(LOG).read_text(errors="replace").splitlines()
    print("\n".join(lines[-40:]))
    told = next((line for line in reversed(lines) if line.startswith("openjd_fail: ")), "")
    last = lines[-1][:300] if lines else "it said nothing"
    print(told or f"openjd_fail: {what}: {last}")
    sys.exit(1)


# -- the server -------------------------------------------------------------------------------


def serve() -> None:
    """Load the scene, then render what is asked for, one after another, for ever."""
    orders = json.loads(Path(ORDERS).read_text())
    try:
        import bpy  # noqa: PLC0415 - only the server needs it
    except ImportError as error:
        sys.exit(f"openjd_fail: Blender cannot be loaded on this node: {error}")
    # Scripts and drivers of the scene belong to it, and run here, where nothing is but the scene.
    bpy.ops.wm.open_mainfile(
        filepath=os.path.abspath(orders["scene"]),  # noqa: PTH100
        load_ui=False,
        use_scripts=True,
    )
    missing = missing_files(bpy)
    if missing:
        told = ", ".join(missing[:5])
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        sys.exit(
            f"openjd_fail: files of the scene are missing: {told}{more}; pack them into it, "
            "or send the folder that holds both with --folder"
        )
    facts = prepare(bpy, orders["options"])
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(SOCKET + ".new")
    listener.listen()
    os.rename(SOCKET + ".new", SOCKET)  # noqa: PTH104
    while True:
        caller, _ = listener.accept()
        with caller, caller.makefile("rw") as stream:
            try:
                answer(bpy, facts, stream)
            except OSError:
                continue


def missing_files(bpy: Any) -> list[str]:
    """Return files that the scene uses, which are neither packed into it nor here."""
    found = []
    for image in bpy.data.images:
        is_file = image.source in ("FILE", "SEQUENCE", "MOVIE", "TILED")
        if is_file and image.users and not image.packed_file and not is_there(bpy, image):
            found.append(image.filepath)
    # An older Blender has not all of these.
    others = [getattr(bpy.data, kind, ()) for kind in OTHER_FILES]
    for one in (each for several in others for each in several):
        if one.users and not getattr(one, "packed_file", None) and not is_there(bpy, one):
            found.append(one.filepath)
    for library in bpy.data.libraries:
        if not getattr(library, "packed_file", None) and not is_there(bpy, library):
            found.append(library.filepath)
    return sorted(set(found))


def is_there(bpy: Any, used: Any) -> bool:
    """Say whether the file is here that something in the scene names; of tiles any one."""
    if not used.filepath or used.filepath == "<builtin>":
        return True
    path = Path(bpy.path.abspath(used.filepath, library=used.library))
    for mark in ("<UDIM>", "<UVTILE>"):
        if mark in path.name:
            return any(path.parent.glob(glob.escape(path.name).replace(mark, "*")))
    return path.exists()


def prepare(bpy: Any, options: dict[str, Any]) -> dict[str, Any]:
    """Set what was asked for; return what is told of every frame."""
    scene = bpy.context.scene
    render = scene.render
    if options.get("renderer"):
        render.engine = options["renderer"]
    if options.get("width"):
        render.resolution_x, render.resolution_y = options["width"], options["height"]
        render.resolution_percentage = 100
    if options.get("camera"):
        camera = bpy.data.objects.get(options["camera"])
        if camera is None or camera.type != "CAMERA":
            cameras = sorted(each.name for each in bpy.data.objects if each.type == "CAMERA")
            sys.exit(
                f"openjd_fail: the scene has no camera {options['camera']!r}; it has: "
                + ", ".join(cameras)
            )
        scene.camera = camera
    if scene.camera is None:
        sys.exit("openjd_fail: the scene has no camera")
    render.threads_mode = "FIXED"
    render.threads = len(os.sched_getaffinity(0))
    if hasattr(render.image_settings, "media_type"):
        # From Blender 5.0 on, a scene that was saved for video offers no pictures before this.
        render.image_settings.media_type = "IMAGE"
    render.image_settings.file_format = "PNG"
    render.use_overwrite, render.use_placeholder = True, False
    samples, device = 0, "CPU"
    if render.engine == "CYCLES":
        if options.get("samples"):
            scene.cycles.samples = options["samples"]
        samples = scene.cycles.samples
        device = choose_device(bpy, scene, options.get("device", "auto"))
    width = render.resolution_x * render.resolution_percentage // 100
    height = render.resolution_y * render.resolution_percentage // 100
    return {
        "width": width,
        "height": height,
        "samples": samples,
        "device": device,
        "engine": render.engine,
        "version": bpy.app.version_string,
    }


def choose_device(bpy: Any, scene: Any, wanted: str) -> str:
    """Let Cycles use a GPU where there is one and it may; return what it uses."""
    if wanted != "cpu":
        settings = bpy.context.preferences.addons["cycles"].preferences
        for kind in GPU_KINDS:
            try:
                settings.compute_device_type = kind
                settings.refresh_devices()
            except (TypeError, AttributeError):
                continue
            devices = [each for each in settings.devices if each.type == kind]
            if devices:
                for each in settings.devices:
                    each.use = each.type == kind
                scene.cycles.device = "GPU"
                return f"{kind} {devices[0].name}"
        if wanted == "gpu":
            sys.exit("openjd_fail: there is no GPU that Blender can use")
    scene.cycles.device = "CPU"
    return "CPU"


def answer(bpy: Any, facts: dict[str, Any], stream: Any) -> None:
    """Render the frames of one order."""
    order = json.loads(stream.readline(10_000))
    first, last = order["first"], order["last"]
    scene = bpy.context.scene
    for number in range(first, last + 1):
        began = time.monotonic()
        scene.frame_set(number)
        base = os.path.join(order["folder"], f"frame_{number:04d}")  # noqa: PTH118
        scene.render.filepath = base + ".png"
        try:
            bpy.ops.render.render(write_still=True)
        except RuntimeError as error:
            stream.write(f"openjd_fail: frame {number}: {' '.join(str(error).split())}\n")
            return
        told = facts | {"frame": number, "seconds": round(time.monotonic() - began, 3)}
        Path(base + ".json").write_text(json.dumps(told))
        done = 100 * (number - first + 1) / (last - first + 1)
        stream.write(f"openjd_progress: {done:.1f}\nopenjd_status: frame {number}\n")
        stream.flush()
    stream.write("done\n")


if __name__ == "__main__":
    if sys.argv[1] == "enter":
        enter(*sys.argv[2:])
    elif sys.argv[1] == "frames":
        frames(*sys.argv[2:])
    else:
        try:
            serve()
        except SystemExit as end:
            print(end.code, flush=True)
        except BaseException:  # noqa: BLE001 - whatever it is, whoever waits must hear of it
            traceback.print_exc()
        # Threads of Blender's may keep the interpreter from coming to its end.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)
