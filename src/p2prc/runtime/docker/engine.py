"""The container engine in our words: the only module that knows aiodocker.

Every call is bounded in time. An engine that is gone raises RuntimeMissing, one that refuses
EngineRefused; only `follow` and open streams last.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Self

import aiodocker
import aiohttp
from aiodocker.execs import Exec
from aiodocker.stream import Stream

from p2prc.errors import MachineCannot, RuntimeMissing
from p2prc.runtime.port import Terminal

CALL_S = 15.0
_REMOVE_AGAIN_S = (0.05, 0.2, 0.5)
_LONG_CALL_S = 60.0
_WORK_S = 3600.0
_NO_DETACHING = "ctrl-^,ctrl-_,ctrl-^,ctrl-_"
"""Keys that let go of a terminal; the usual ones are in every shell user's fingers."""
Facts = Mapping[str, Any]


class EngineRefused(MachineCannot):
    """The container engine refuses."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(f"the container engine refuses: {message[:500]}")
        self.status = status


class EngineStream:
    """The input and output of a process in a container."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._is_input_open = True

    async def open(self) -> Self:
        async with _bounded():
            await self._stream._init()
        return self

    async def read(self) -> tuple[int, bytes] | None:
        """Return the channel (1 or 2) and the bytes that come next, or None at the end."""
        try:
            message = await self._stream.read_out()
        except (aiohttp.ClientError, OSError, aiodocker.DockerError):
            return None
        return None if message is None else (message.stream, message.data)

    async def write(self, content: bytes) -> None:
        """Give bytes to the process; dropped once it is gone."""
        if self._is_input_open:
            with contextlib.suppress(aiohttp.ClientError, OSError, RuntimeError, AssertionError):
                await self._stream.write_in(content)

    def end_input(self) -> None:
        """Half close. The library only knows how to close both ways."""
        response, self._is_input_open = self._stream._resp, False
        connection = None if response is None else response.connection
        if connection is not None and connection.transport is not None:
            with contextlib.suppress(OSError, RuntimeError):
                connection.transport.write_eof()

    async def close(self) -> None:
        with contextlib.suppress(aiohttp.ClientError, OSError, RuntimeError, AssertionError):
            await self._stream.close()


class EngineExec:
    """A command in a container, besides its first process."""

    def __init__(self, found: Exec) -> None:
        self._exec = found

    async def start(self) -> EngineStream:
        return await EngineStream(self._exec.start(detach=False)).open()

    async def facts(self) -> Facts:
        """Return `Running`, `ExitCode` and `Pid` (0 when it never started)."""
        async with _bounded():
            return await self._exec.inspect()

    async def resize(self, terminal: Terminal) -> None:
        async with _bounded():
            await self._exec.resize(h=terminal.rows, w=terminal.columns)


class Engine:
    """A connection to a container engine."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        # Without the usual limit of 100: a lease has a stream, and so has every command.
        self._connector = aiohttp.UnixConnector(str(socket), limit=0)
        self._docker = aiodocker.Docker(url="http://engine", connector=self._connector)

    async def close(self) -> None:
        await self._docker.close()
        await self._connector.close()

    async def info(self) -> Facts:
        """Return what the engine says about itself. Raises RuntimeMissing."""
        async with _bounded():
            return dict(await self._docker.system.info())

    async def image(self, name: str) -> Facts | None:
        """Return an image that is here, or None."""
        try:
            async with _bounded():
                return await self._docker.images.inspect(name)
        except EngineRefused as error:
            if error.status == 404:
                return None
            raise

    async def import_image(self, name: str, archive: bytes) -> None:
        """Make an image of one layer from a tar archive."""
        parameters: dict[str, Any] = {"fromSrc": "-", "repo": name}
        async with (
            _bounded(_LONG_CALL_S),
            self._docker._query(
                "images/create",
                "POST",
                params=parameters,
                data=archive,
                headers={"Content-Type": "application/x-tar"},
            ) as answer,
        ):
            said = await answer.text()
        if '"error"' in said:
            raise EngineRefused(said)

    async def image_names(self) -> list[str]:
        """Return the names of all images that have one."""
        async with _bounded():
            found = await self._docker.images.list()
        names = [str(name) for image in found for name in image.get("RepoTags") or ()]
        return [name.removesuffix(":latest") for name in names if name != "<none>:<none>"]

    async def build(
        self, context: IO[bytes], name: str, labels: Mapping[str, str]
    ) -> AsyncIterator[Facts]:
        """Build an image from a tar archive; yields what the engine says."""
        parameters = {"t": name, "rm": "1", "forcerm": "1", "labels": json.dumps(dict(labels))}
        async for said in self._work("build", parameters, context):
            yield said

    async def load(self, archive: IO[bytes]) -> None:
        """Take images from an archive as `docker save` makes it."""
        async for _ in self._work("images/load", {"quiet": "1"}, archive):
            pass

    async def pull(self, name: str) -> AsyncIterator[Facts]:
        """Fetch an image from its registry; yields what the engine says."""
        has_tag = "@" in name or ":" in name.rpartition("/")[2]
        async for said in self._work(
            "images/create", {"fromImage": name if has_tag else f"{name}:latest"}, None
        ):
            yield said

    async def tag(self, image: str, repository: str, tag: str) -> None:
        async with _bounded():
            await self._docker.images.tag(image, repository, tag=tag)

    async def remove_image(self, name: str) -> None:
        """Forget an image; fine when it is gone or in use."""
        with _gone_is_fine():
            async with _bounded(_LONG_CALL_S):
                await self._docker.images.delete(name)

    async def _work(
        self, path: str, parameters: Mapping[str, str], content: IO[bytes] | None
    ) -> AsyncIterator[Facts]:
        """Have long work done; yields what the engine says, and raises what it complains of."""
        async with (
            _bounded(_WORK_S),
            self._docker._query(
                path,
                "POST",
                params=dict(parameters),
                data=content,
                headers={"Content-Type": "application/x-tar"},
                timeout=aiohttp.ClientTimeout(total=None, sock_read=_WORK_S),
            ) as answer,
        ):
            async for line in answer.content:
                said = _decoded(line)
                if complaint := said.get("error"):
                    raise EngineRefused(str(complaint))
                yield said

    async def create(self, name: str, config: Mapping[str, Any]) -> str:
        """Make a container and return its id."""
        async with _bounded(_LONG_CALL_S):
            return (await self._docker.containers.create(dict(config), name=name)).id

    async def start(self, container: str) -> None:
        async with _bounded(_LONG_CALL_S):
            await self._docker.containers.container(container).start()

    async def attach(self, container: str) -> EngineStream:
        """Take the input and output of a container's first process."""
        attached = self._docker.containers.container(container).attach(
            stdin=True, stdout=True, stderr=True
        )
        return await EngineStream(attached).open()

    async def exec(
        self,
        container: str,
        argv: Sequence[str],
        *,
        variables: Mapping[str, str],
        folder: str,
        takes_input: bool,
        is_terminal: bool,
    ) -> EngineExec:
        async with _bounded():
            return EngineExec(
                await self._docker.containers.container(container).exec(
                    list(argv),
                    stdin=takes_input or is_terminal,
                    tty=is_terminal,
                    environment=dict(variables),
                    workdir=folder,
                    detach_keys=_NO_DETACHING,
                )
            )

    async def facts(self, container: str) -> Facts | None:
        """Return a container's state and configuration, or None when it is gone."""
        try:
            async with _bounded():
                return await self._docker.containers.container(container).show()
        except EngineRefused as error:
            if error.status == 404:
                return None
            raise

    async def containers(self, labels: Sequence[str]) -> list[Facts]:
        """Return all containers, running or not, with these labels."""
        filters = json.dumps({"label": list(labels)})
        async with _bounded():
            found = await self._docker._query_json(
                "containers/json", params={"all": "true", "filters": filters}
            )
        return list(found)

    async def statistics(self, container: str) -> Facts:
        """Return one sample of what a container uses; for where cgroups cannot be read."""
        async with _bounded():
            found: dict[str, Any] = await self._docker._query_json(
                f"containers/{container}/stats", params={"stream": "false", "one-shot": "true"}
            )
            return found

    async def kill(self, container: str) -> None:
        """Kill everything in a container; fine when it is gone or not running."""
        with _gone_is_fine():
            async with _bounded():
                await self._docker.containers.container(container).kill()

    async def limit(self, container: str, limits: Mapping[str, int]) -> None:
        """Change the limits of a container that runs. Raises MachineCannot."""
        async with _bounded():
            await self._docker._query_json(
                f"containers/{container}/update", method="POST", data=dict(limits)
            )

    async def pause(self, container: str) -> None:
        """Freeze everything in a container; fine when it is gone or frozen already."""
        with _gone_is_fine():
            async with _bounded():
                await self._docker.containers.container(container).pause()

    async def unpause(self, container: str) -> None:
        """Let it go on; fine when it is gone or not frozen."""
        facts = await self.facts(container)
        state = None if facts is None else facts.get("State")
        # Engines call it a bug of theirs (500) when it is not frozen.
        if not isinstance(state, dict) or not state.get("Paused"):
            return
        with _gone_is_fine():
            async with _bounded():
                await self._docker.containers.container(container).unpause()

    async def remove(self, container: str) -> None:
        """Kill and delete a container; fine when it is gone, or somebody deletes it already.

        One that dies just then the engine refuses to kill and so to delete: it is asked again.
        """
        for pause_s in _REMOVE_AGAIN_S:
            with contextlib.suppress(EngineRefused):
                await self._delete(container)
                return
            await asyncio.sleep(pause_s)
        with _gone_is_fine():
            await self._delete(container)

    async def _delete(self, container: str) -> None:
        async with _bounded(_LONG_CALL_S):
            try:
                await self._docker.containers.container(container).delete(force=True, v=True)
            except aiodocker.DockerError as error:
                if error.status != 404:
                    raise


def _decoded(line: bytes) -> dict[str, Any]:
    try:
        said = json.loads(line)
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


@contextlib.contextmanager
def _gone_is_fine() -> Any:
    try:
        yield
    except EngineRefused as error:
        # 409: not running, or somebody removes it already.
        if error.status not in (404, 409):
            raise


@contextlib.asynccontextmanager
async def _bounded(limit_s: float = CALL_S) -> AsyncIterator[None]:
    """Say the engine's errors in our words; wait for it so long and no longer."""
    try:
        async with asyncio.timeout(limit_s):
            yield
    except TimeoutError as error:
        raise RuntimeMissing("the container engine does not answer") from error
    except aiodocker.DockerError as error:
        if error.status == 900:
            raise RuntimeMissing("the container engine is gone") from error
        raise EngineRefused(str(error.message), error.status) from error
    except (aiohttp.ClientError, OSError, AssertionError) as error:
        raise RuntimeMissing(f"the container engine is gone: {error}") from error
