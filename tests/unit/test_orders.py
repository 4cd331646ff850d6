"""What the daemon looks at before it begins work that somebody asked for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from p2prc.api.schema import JobRequest
from p2prc.daemon.orders import folder_of
from p2prc.errors import MachineCannot


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


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_we_may_not_write_in_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir(mode=0o500)
    with pytest.raises(MachineCannot, match="permission denied"):
        folder_of(asked(tmp_path / "theirs" / "film"))
