"""What the daemon looks at before it begins work that somebody asked for."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from p2prc.api.schema import JobRequest
from p2prc.daemon.orders import folder_of, volumes_of
from p2prc.errors import JobInvalid, MachineCannot


def asked(to: Path | str, *, outputs: tuple[str, ...] = ("*.png",)) -> JobRequest:
    return JobRequest(argv=["true"], outputs=list(outputs), to=str(to))


def test_results_go_to_a_folder_that_is_made_later(tmp_path: Path) -> None:
    assert folder_of(asked(tmp_path / "new" / "er")) == tmp_path / "new" / "er"


def test_a_folder_named_for_a_parameter_is_made_later(tmp_path: Path) -> None:
    assert folder_of(asked(tmp_path / "{i:04d}" / "b")) == tmp_path / "{i:04d}" / "b"


def test_a_file_is_no_folder_for_results(tmp_path: Path) -> None:
    (tmp_path / "film").write_text("a file")
    with pytest.raises(MachineCannot, match=r"cannot write results to .*film`: not a directory"):
        folder_of(asked(tmp_path / "film" / "frames"))


def test_work_without_outputs_may_name_any_folder(tmp_path: Path) -> None:
    (tmp_path / "film").write_text("a file")
    assert folder_of(asked(tmp_path / "film", outputs=())) == tmp_path / "film"


REFUSED, ACCEPTED = 10, 11


def test_a_folder_that_we_may_not_write_in_is_refused_before_the_work() -> None:
    # Root may write anywhere: a child that is nobody asks for us.
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o555)
        child = os.fork()
        if child == 0:
            os._exit(_ask_as_nobody(Path(folder) / "film"))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == REFUSED
        Path(folder).chmod(0o755)


def _ask_as_nobody(to: Path) -> int:
    if os.getuid() == 0:
        os.setuid(65534)
    try:
        folder_of(asked(to))
    except MachineCannot as error:
        return REFUSED if "permission denied" in error.message else 1
    return ACCEPTED


def test_volumes_are_written_name_and_path() -> None:
    (volume,) = volumes_of(["data:/srv/data"])
    assert (volume.name, volume.path) == ("data", "/srv/data")


@pytest.mark.parametrize(
    "typed",
    [
        ["data"], [":/data"], ["data:"], ["data:relative"], ["../up:/data"], ["data:/a/../b"],
        ["data:/"], ["da ta:/data"], ["data:/da\nta"], ["data:/a", "data:/b"], ["a:/x", "b:/x"],
    ],
)  # fmt: skip
def test_other_volumes_are_refused(typed: list[str]) -> None:
    with pytest.raises(JobInvalid):
        volumes_of(typed)
