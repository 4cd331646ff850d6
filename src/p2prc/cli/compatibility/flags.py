"""The flags of P2PRC 2.0: names, aliases and environment variables, as in its own table.

Go's flag package reads them, so one dash is as good as two and `--flag=value` is a value.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Flag:
    """One flag. `variable` is the environment variable that P2PRC reads in its place, if any."""

    name: str
    alias: str = ""
    variable: str = ""
    takes_value: bool = True

    @property
    def typed(self) -> str:
        """How people know it: the short form."""
        short = self.alias or self.name
        return f"-{short}" if len(short) == 1 else f"--{short}"


FLAGS = (
    Flag("Server", "s", "SERVER", takes_value=False),
    Flag("UpdateServerList", "us", "UPDATE_SERVER_LIST", takes_value=False),
    Flag("ListServers", "ls", "LIST_SERVERS", takes_value=False),
    Flag("AddServer", "as", "ADD_SERVER"),
    Flag("ViewImages", "vi", "VIEW_IMAGES"),
    Flag("CreateVM", "touch", "CREATE_VM"),
    Flag("ContainerName", "cn", "CONTAINER_NAME"),
    # P2PRC reads CONTAINER_NAME for this one as well: one variable cannot mean both.
    Flag("BaseImage", "bi"),
    Flag("RemoveVM", "rm", "REMOVE_VM"),
    Flag("ID", "id", "ID"),
    Flag("Ports", "p", "NUM_PORTS"),
    Flag("GPU", "gpu", "USE_GPU", takes_value=False),
    Flag("Specification", "specs", "SPECS"),
    Flag("SetDefaultConfig", "dc", "SET_DEFAULT_CONFIG", takes_value=False),
    Flag("NetworkInterfaces", "ni", "NETWORK_INTERFACE", takes_value=False),
    Flag("ViewPlugins", "vp", "VIEW_PLUGIN", takes_value=False),
    Flag("TrackedContainers", "tc", "TRACKED_CONTAINERS", takes_value=False),
    Flag("ExecutePlugin", "plugin", "EXECUTE_PLUGIN"),
    Flag("CreateGroup", "cgroup", "CREATE_GROUP", takes_value=False),
    Flag("Group", "group", "GROUP"),
    Flag("Groups", "groups", "GROUPS", takes_value=False),
    Flag("RemoveContainerGroup", "rmcgroup", "REMOVE_CONTAINER_GROUP", takes_value=False),
    Flag("RemoveGroup", "rmgroup", "REMOVE_GROUP"),
    Flag("MAPPort", "mp", "MAPPORT"),
    Flag("RemoteAddress", "ra", "REMOTEADDRESS"),
    Flag("DomainName", "dn", "DOMAINNAME"),
    Flag("UDP", "udp", takes_value=False),
    Flag("Generate", "gen", "GENERATE"),
    Flag("ModuleName", "mod", "MODULENAME"),
    Flag("PullPlugin", "pp", "PULLPLUGIN"),
    Flag("RemovePlugin", "rp", "REMOVEPLUGIN"),
    Flag("AddMetaData", "amd", "ADDMETADATA"),
    Flag("AddRootNode", "arn", "ADDROOTNODE", takes_value=False),
    Flag("IPAddress", "ip", "IP"),
    Flag("ViewConfig", "vc", takes_value=False),
    Flag("CallRustProgram", "crp", takes_value=False),
)
BY_WORD = {word: flag for flag in FLAGS for word in (flag.name, flag.alias) if word}
