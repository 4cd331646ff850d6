"""Every flag of P2PRC becomes one of our commands, and nonsense becomes a clear error."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec
import pytest

from p2prc.api import schema
from p2prc.cli.compatibility.flags import BY_WORD, FLAGS
from p2prc.cli.compatibility.reading import from_environment, is_of_p2prc, read
from p2prc.cli.compatibility.translation import NodeWord, translate
from p2prc.cli.failures import UsageOfP2prc
from p2prc.cli.invocation import Invocation
from p2prc.cli.main import root, run_command_line
from tests.unit.api_fake import NODE, PEER, FakeNode, served

ADDRESS = "192.0.2.7:8088"
ID = "1f" * 10
TABLE = {
    "-s": "up",
    "--us": "--json nodes --refresh",
    "--ls": "--json nodes",
    "--as 192.0.2.7": f"join {ADDRESS}",
    "--as 192.0.2.7 -p 9000": "join 192.0.2.7:9000",
    "--as 2001:db8::7": "join [2001:db8::7]:8088",
    "--as host.example.org:9000": "join host.example.org:9000",
    f"--vi {ADDRESS}": "--json images <192.0.2.7:8088>",
    f"--touch {ADDRESS}": "--json create <192.0.2.7:8088>",
    f"--touch {ADDRESS} -p 2 --gpu": "--json create <192.0.2.7:8088> --ports 2 --gpus 1",
    f"-p 2 --gpu --touch {ADDRESS}": "--json create <192.0.2.7:8088> --ports 2 --gpus 1",
    f"--touch {ADDRESS} --gpu=false": "--json create <192.0.2.7:8088>",
    "--touch grace --cn alpine": "--json create <grace> --image alpine",
    "--touch grace --cn docker-ubuntu-sshd": "--json create <grace>",
    "--touch grace --bi ubuntu:24.04": "--json create <grace> --image ubuntu:24.04",
    "--touch grace --cn docker-ubuntu-sshd --bi debian": "--json create <grace> --image debian",
    f"--rm {ADDRESS} --id {ID}": f"rm {ID}",
    f"--specs {ADDRESS}": "--json specs <192.0.2.7:8088>",
    "--dc": "config init",
    "--vc": "--json config show",
    "--ni": "interfaces",
    "--vp": "--json plugin list",
    f"--plugin TestAnsible --id {ID}": f"plugin run TestAnsible {ID}",
    "--pp https://example.org/plugin.git": "plugin pull https://example.org/plugin.git",
    "--rp TestAnsible": "plugin rm TestAnsible",
    "--tc": "--json ps",
    "--cgroup": "--json group create grp1",
    "--groups": "--json group list",
    "--group grp1": "--json group show grp1",
    f"--group grp1 --id {ID}": f"--json group add grp1 {ID}",
    f"--rmcgroup --group grp1 --id {ID}": f"--json group remove grp1 {ID}",
    "--rmgroup grp1": "--json group rm grp1",
    "--mp 3000": "--json expose 3000",
    "--mp 3000 --udp": "--json expose 3000 --udp",
    "--mp 3000 --dn my.example.org": "--json expose 3000 --domain my.example.org",
    f"--mp 3000 --ra {ADDRESS}": "--json expose 3000 --of <192.0.2.7:8088>",
    "--amd {\"a\":1}": "metadata CustomInformation={\"a\":1}",
    "--arn --ip 192.0.2.7 -p 8088": f"leave ; join {ADDRESS}",
    "--gen project": "new project",
    "--gen project --mod example.org/project": "new project --module example.org/project",
}  # fmt: skip
ENVIRONMENT = {
    "LIST_SERVERS=true": "--json nodes",
    "SERVER=1": "up",
    "ADD_SERVER=192.0.2.7 NUM_PORTS=9000": "join 192.0.2.7:9000",
    "CREATE_VM=grace NUM_PORTS=2 USE_GPU=true CONTAINER_NAME=alpine": "--json create <grace> "
    "--ports 2 --gpus 1 --image alpine",
    f"GROUP=grp1 REMOVE_CONTAINER_GROUP=true ID={ID}": f"--json group remove grp1 {ID}",
    "ADDROOTNODE=true IP=192.0.2.7 NUM_PORTS=8088": f"leave ; join {ADDRESS}",
    "MAPPORT=3000 DOMAINNAME=my.example.org REMOTEADDRESS=grace": "--json expose 3000 "
    "--domain my.example.org --of <grace>",
}
NONSENSE = {
    "--touch": "`--touch` needs a value",
    "--touch --gpu": "`--touch` needs a value",
    "--touch=": "`--touch` needs a value",
    "--touch 192.0.2.7": "`192.0.2.7` lacks its port: `--touch 192.0.2.7:8088`",
    "--touch 2001:db8::7": "lacks its port",
    "--touch grace -p many": "`-p many` is no number from 1 to 64",
    "--touch grace -p 65": "no number from 1 to 64",
    "--touch grace --gpu=perhaps": "`--gpu` is `true` or `false`",
    "--as 192.0.2.7 -p 70000": "no number from 1 to 65535",
    "--ls --us": "`--ls` and `--us` are commands of their own",
    "--ls --gpu": "`--gpu` means nothing beside `--ls`",
    "--touch grace --id x": "`--id` means nothing beside `--touch`",
    "-p 2": "`-p` goes with `--as` or `--touch` or `--arn`",
    "--gpu": "`--gpu` goes with `--touch`",
    "--rm grace": "which container: add `--id`",
    "--plugin TestAnsible": "on which container or group: add `--id`",
    "--rmcgroup --id x": "which group: add `--group`",
    "--arn --ip 192.0.2.7": "which node is the root: add `-p`",
    "--ls nodes": "`nodes` is one word too many",
    "--ls --detach": "`--detach` is no flag of P2PRC's",
    "--crp": "built into P2PRC to show that it can",
}


def said(typed: dict[str, str], environment: dict[str, str]) -> str:
    found = translate(typed, from_environment(environment), lambda: "grp1")
    shown = [
        " ".join(f"<{word.text}>" if isinstance(word, NodeWord) else word for word in command)
        for command in found.commands
    ]
    return ("--json " if found.is_json else "") + " ; ".join(shown)


@pytest.mark.parametrize(("typed", "ours"), TABLE.items(), ids=str)
def test_a_flag_of_p2prc_is_a_command_of_ours(typed: str, ours: str) -> None:
    assert said(read(typed.split(" ")).values, {}) == ours


@pytest.mark.parametrize(("variables", "ours"), ENVIRONMENT.items(), ids=str)
def test_its_variables_stand_for_its_flags(variables: str, ours: str) -> None:
    environment = dict(each.split("=") for each in variables.split(" "))
    assert is_of_p2prc([], environment)
    assert said({}, environment) == ours


def test_a_variable_completes_what_was_typed_and_never_adds_a_command() -> None:
    environment = {"NUM_PORTS": "2", "SERVER": "true", "ID": "x", "USE_GPU": "no"}
    assert said({"CreateVM": "grace"}, environment) == "--json create <grace> --ports 2"
    assert said({"CreateVM": "grace", "Ports": "3"}, environment).endswith("--ports 3")


def test_every_flag_is_in_the_table_by_its_short_and_by_its_long_name() -> None:
    assert len(FLAGS) == 36
    tried = {
        BY_WORD[word.lstrip("-").partition("=")[0]].name
        for typed in [*TABLE, "--crp"]
        for word in typed.split(" ")
        if word.startswith("-")
    }
    assert tried == {flag.name for flag in FLAGS}
    for flag in FLAGS:
        value = "x" if flag.takes_value else "true"
        for word in (f"-{flag.alias}={value}", f"--{flag.name}={value}"):
            assert read([word]).values == {flag.name: value}


def test_every_variable_is_read() -> None:
    named = [flag for flag in FLAGS if flag.variable]
    environment = {flag.variable: "x" if flag.takes_value else "true" for flag in named}
    assert set(from_environment(environment)) == {flag.name for flag in named}
    assert {flag.name for flag in FLAGS} - {flag.name for flag in named} == {
        "BaseImage", "UDP", "ViewConfig", "CallRustProgram",
    }  # fmt: skip


@pytest.mark.parametrize(("typed", "sentence"), NONSENSE.items(), ids=str)
def test_nonsense_is_said(typed: str, sentence: str) -> None:
    with pytest.raises(UsageOfP2prc) as error:
        said(read(typed.split(" ")).values, {})
    assert sentence in error.value.message


@pytest.mark.parametrize("ours", sorted({*TABLE.values(), *ENVIRONMENT.values()}), ids=str)
def test_what_comes_out_is_understood_by_our_own_commands(ours: str) -> None:
    for line in ours.removeprefix("--json ").split(" ; "):
        name, *words = line.replace("<", "").replace(">", "").split(" ")
        context = root.make_context("p2prc", [name], resilient_parsing=True)
        command = root.get_command(context, name)
        assert command is not None, line
        while isinstance(command, click.Group):
            inner = command.get_command(context, words[0])
            assert inner is not None, line
            command, words = inner, words[1:]
        command.make_context(name, words, parent=context)


@pytest.mark.parametrize(
    "words",
    [["--help"], ["-h"], ["--version"], ["nodes"], ["--json", "nodes"], ["--home", "x"], []],
)
def test_our_own_words_are_left_alone(words: list[str]) -> None:
    assert not is_of_p2prc(words, {"ID": "x", "IP": "y", "NUM_PORTS": "2", "SERVER": "mail"})


@pytest.mark.parametrize("words", [["--ls"], ["--home", "x", "-s"], ["--json", "--tc"], ["-ls"]])
def test_its_words_are_known_also_after_our_shared_options(words: list[str]) -> None:
    assert is_of_p2prc(words, {})


class TwoNodes(FakeNode):
    """This node and another, at addresses that people type."""

    async def nodes(self) -> list[schema.NodeRow]:
        found = await super().nodes()
        places = [["10.1.2.3:8088", "[2001:db8::1]:8088"], ["10.1.2.4:8088"]]
        return [
            msgspec.structs.replace(row, addresses=at)
            for row, at in zip(found, places, strict=False)
        ]


def test_an_address_becomes_the_node_that_listens_there(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def call(*words: str) -> int:
        return run_command_line(words, Invocation(str(tmp_path)))

    with served(node := TwoNodes(), tmp_path):
        for typed, meant in (
            ("10.1.2.4:8088", PEER),
            ("10.1.2.3:8088", NODE),
            ("[2001:db8::1]:8088", NODE),
            ("localhost:8088", NODE),
            ("0.0.0.0:8088", NODE),
            ("beta", "beta"),
        ):
            assert call("--specs", typed) == 0
            assert node.asked[-1] == ("specs", meant)
        capfd.readouterr()
        assert call("--specs", "10.1.2.4:8089") == 4
        assert "no node of this network listens at `10.1.2.4:8089`" in capfd.readouterr().err
        # Who is in the network already is not asked to let this node in.
        assert call("--as", "10.1.2.4") == 0
        assert "10.1.2.4:8088 is in this network already" in capfd.readouterr().err
        assert call("--as", "10.1.2.5") == 0
        assert isinstance(node.asked[-1], schema.AskRequest)


def test_the_variable_that_leads_nowhere_is_said(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    nowhere = str(tmp_path / "nowhere")
    assert run_command_line(["-s"], Invocation(nowhere), {"P2PRC": nowhere}) == 3
    assert f"names {nowhere}, and there is no such folder" in capfd.readouterr().err
    assert not Path(nowhere).exists()
    assert run_command_line(["--dc"], Invocation(nowhere), {"P2PRC": nowhere}) == 0
    assert (Path(nowhere) / "config.toml").exists()
