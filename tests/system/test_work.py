"""Work on a network of three real nodes, as a person types it."""

from __future__ import annotations

from pathlib import Path

from tests.system.nodes import NodeUnderTest, wait_until

Nodes = list[NodeUnderTest]


def test_a_command_runs_on_a_named_node_and_its_streams_and_status_come_back(
    three_nodes: Nodes,
) -> None:
    said = three_nodes[0].p2prc(
        "run", "grace", "--", "sh", "-c", "echo out; echo err >&2; exit 3", status=3
    )
    assert said.out == "out\n"
    assert "err" in said.err


def test_inputs_go_in_and_outputs_come_back(three_nodes: Nodes, tmp_path: Path) -> None:
    (tmp_path / "scene").mkdir()
    (tmp_path / "scene" / "word.txt").write_text("hello")
    back = tmp_path / "back"
    said = three_nodes[0].json(
        "run", "linus", "--in", str(tmp_path / "scene"), "--out", "made/*.txt", "--to", str(back),
        "--", "sh", "-c", "mkdir made; tr a-z A-Z < scene/word.txt > made/loud.txt",
    )  # fmt: skip
    assert (back / "made" / "loud.txt").read_text() == "HELLO"
    assert said["exit"] == 0
    assert said["outputs"] == [str(back / "made" / "loud.txt")]


def test_a_command_that_does_not_exist_is_said_with_status_125(three_nodes: Nodes) -> None:
    said = three_nodes[0].p2prc("run", "grace", "--", "no-such-command", status=125)
    assert "no-such-command" in said.err


def test_a_range_is_spread_over_all_nodes_and_its_outputs_land(
    three_nodes: Nodes, tmp_path: Path
) -> None:
    to = tmp_path / "results"
    job = three_nodes[0].json(
        "map", "--over", "i=1-24", "--out", "*.txt", "--to", str(to),
        "--", "sh", "-c", "sleep 0.2; echo {i} > {i:03d}.txt",
    )  # fmt: skip
    ended = three_nodes[0].p2prc("--json", "watch", job["id"])
    assert ended.status == 0
    assert sorted(path.name for path in to.iterdir()) == [f"{i:03d}.txt" for i in range(1, 25)]
    shown = three_nodes[0].json("job", "show", job["id"])
    assert shown["state"] == "succeeded"
    assert all(share["succeeded"] for share in shown["nodes"].values())
    assert len(shown["nodes"]) == 3


def test_an_urgent_job_does_not_wait_for_the_end_of_another(three_nodes: Nodes) -> None:
    ada = three_nodes[0]
    usual = ada.json("map", "--on", "grace", "--over", "i=1-400", "--", "sleep", "0.2")["id"]
    running = lambda: ada.json("job", "show", usual)["tasks"]["running"] == 2  # noqa: E731
    wait_until(running, "the usual job has all places")
    said = ada.p2prc(
        "map", "--watch", "--on", "grace", "--priority", "5", "--over", "i=1-4", "--", "true"
    )
    assert "4 of 4 tasks done" in said.out
    shown = ada.json("job", "show", usual)
    assert shown["state"] == "running"
    assert shown["tasks"]["failed"] == 0
    assert shown["failures"] == []
    ada.p2prc("cancel", usual)


def test_two_tasks_with_one_output_path_fail_the_second(three_nodes: Nodes, tmp_path: Path) -> None:
    said = three_nodes[0].p2prc(
        "map", "--watch", "--over", "i=1-2", "--out", "same.txt", "--to", str(tmp_path / "to"),
        "--", "sh", "-c", "echo {i} > same.txt", status=7,
    )  # fmt: skip
    assert "same.txt" in said.out + said.err
    assert (tmp_path / "to" / "same.txt").exists()


def test_an_output_pattern_that_matches_nothing_is_named(
    three_nodes: Nodes, tmp_path: Path
) -> None:
    said = three_nodes[0].p2prc(
        "map", "--watch", "--retries", "0", "--over", "i=1", "--out", "missing-*.png",
        "--to", str(tmp_path / "to"), "--", "true", status=7,
    )  # fmt: skip
    assert "missing-*.png" in said.out + said.err


def test_what_nobody_offers_is_named(three_nodes: Nodes) -> None:
    said = three_nodes[0].p2prc("run", "any", "--memory", "100T", "--", "true", status=None)
    assert said.status == 125
    assert "memory" in said.err


def test_a_job_that_no_node_can_run_says_which_requirement_nobody_meets(
    three_nodes: Nodes,
) -> None:
    ada = three_nodes[0]
    job = ada.json("map", "--over", "i=1", "--cpus", "500", "--", "true")["id"]
    wait_until(lambda: "core" in ada.json("job", "show", job)["blocked"], "the reason is shown")
    ada.p2prc("cancel", job)


def test_cancel_stops_everything_long_before_it_would_end(three_nodes: Nodes) -> None:
    ada = three_nodes[0]
    job = ada.json("map", "--over", "i=1-50", "--", "sleep", "60")["id"]
    wait_until(lambda: ada.json("job", "show", job)["tasks"]["running"] >= 3, "tasks run")
    ada.p2prc("cancel", job)
    assert ada.json("job", "show", job)["state"] == "cancelled"
    assert "cancelled" in ada.p2prc("retry", job, status=5).err
    assert "no task 999" in ada.p2prc("logs", f"{job}/999", status=4).err
    took_s = wait_until(
        lambda: not any(node.json("leases") for node in three_nodes), "no lease is left"
    )
    assert took_s < 20.0


def test_an_owner_sees_a_lease_ends_it_and_the_requester_is_told_by_whom(
    three_nodes: Nodes,
) -> None:
    ada, grace, _ = three_nodes
    running = ada.start("run", "grace", "--", "sh", "-c", "echo started; sleep 60")
    assert running.stdout is not None
    assert running.stdout.readline() == "started\n"
    lease = grace.json("leases")[0]
    assert lease["peer_name"] == "ada"
    assert lease["memory_bytes"] > 0
    grace.p2prc("kill", lease["id"])
    _, err = running.communicate(timeout=10)
    assert running.returncode == 125
    assert "owner" in err
    assert grace.json("leases") == []


def test_a_paused_node_lends_nothing_until_it_is_resumed(three_nodes: Nodes) -> None:
    ada, grace, _ = three_nodes
    grace.p2prc("pause")
    said = ada.p2prc("run", "grace", "--", "true", status=None)
    assert said.status == 125
    grace.p2prc("resume")
    ada.p2prc("run", "grace", "--", "true")


def test_specs_and_ping_reach_another_node(three_nodes: Nodes) -> None:
    ada = three_nodes[0]
    assert ada.json("specs", "linus")["cpus"] >= 1
    pinged = ada.json("ping", "linus")
    assert pinged["lost"] == 0
    assert pinged["path"] == "direct"


def test_bandwidth_to_a_peer_is_measured_and_kept(three_nodes: Nodes) -> None:
    ada = three_nodes[0]
    measured = ada.json("ping", "linus", "--bandwidth", "--count", "1")["bandwidth"]
    assert measured["down_bytes_s"] > 0
    assert measured["up_bytes_s"] > 0
    kept = {row["name"]: row["bandwidth"] for row in ada.json("nodes")}
    assert kept == {"ada": None, "grace": None, "linus": measured}
    for command in (("ping", "linus", "--count", "1"), ("nodes",)):
        assert "/s, " in ada.p2prc(*command).out
    ada.p2prc("ping", "ada", "--bandwidth", status=3)


def test_an_owner_sees_which_command_a_lease_runs(three_nodes: Nodes) -> None:
    ada, grace, _ = three_nodes
    running = ada.start("run", "grace", "--", "sh", "-c", "echo started; sleep 60")
    assert running.stdout is not None
    assert running.stdout.readline() == "started\n"
    assert grace.json("leases")[0]["command"] == "sh -c 'echo started; sleep 60'"
    grace.p2prc("kill", "--all")
    running.communicate(timeout=10)


def test_a_job_that_is_typed_twice_is_one(three_nodes: Nodes, tmp_path: Path) -> None:
    words = (
        "map", "--over", "i=1-2", "--to", str(tmp_path), "--",
        "sh", "-c", f"until [ -e {tmp_path}/go ]; do sleep 0.1; done",
    )  # fmt: skip
    ada = three_nodes[0]
    first = ada.json(*words)
    said = ada.p2prc("--json", *words)
    assert said.data["id"] == first["id"]
    assert f"taking up {first['id'][:10]}" in said.err
    assert ada.json(*words[:1], "--again", *words[1:])["id"] != first["id"]
    assert ada.json(*words[:-1], words[-1] + "; true")["id"] != first["id"]
    for row in ada.json("jobs"):
        if row["state"] in ("queued", "running"):
            ada.p2prc("cancel", row["id"])
    # What has ended may be done anew.
    assert ada.json(*words)["id"] != first["id"]
    ada.p2prc("cancel", ada.json("jobs")[0]["id"])
