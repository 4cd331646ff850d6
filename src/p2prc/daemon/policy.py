"""Who may have how much of this machine: from the owner's settings to the lease book, and back.

What an owner changes is in force before the answer, and in `config.toml` for the next start.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from p2prc.errors import SettingInvalid
from p2prc.model.identity import NodeId
from p2prc.model.resources import Capacity
from p2prc.protocol.lending import LendingPolicy
from p2prc.settings import CONFIG_FILE, SETTING_KEYS, Settings, check_setting, with_setting
from p2prc.storage.config_file import set_in_config
from p2prc.storage.home import Home

FOREVER_S = 366 * 86400.0
POLICY_KEYS = tuple(key for key in SETTING_KEYS if key.startswith("lend."))
_DENIED = "lend.deny"
_LENDS_TO = "lend.to"
_OUTRANKING = ("environment", "command line")


def policy_of(settings: Settings) -> LendingPolicy:
    """Return what the owner's settings mean for the lease book."""
    lend = settings.lend
    lends_to: frozenset[NodeId] | None = None
    if lend.to == "none":
        lends_to = frozenset()
    elif isinstance(lend.to, tuple):
        lends_to = frozenset(lend.to)
    return LendingPolicy(
        lends_to=lends_to,
        denied=frozenset(lend.deny),
        trusted=frozenset(lend.tier_none_to),
        lifetime_limit_s=FOREVER_S if lend.lifetime_s is None else lend.lifetime_s,
    )


def lent_of(settings: Settings) -> Capacity:
    """Return what is lent over all leases together: nothing where nobody is lent to."""
    if not policy_of(settings).lends_at_all:
        return Capacity()
    return Capacity(
        cpu_millis=settings.lend.cpu_millis,
        memory_bytes=settings.lend.memory_bytes,
        disk_bytes=settings.lend.disk_bytes,
    )


class PolicyDesk:
    """The owner's rules while the node runs. `apply` puts changed ones into force."""

    def __init__(
        self, settings: Settings, home: Home, *, apply: Callable[[Settings], None]
    ) -> None:
        self.settings = settings
        self._home = home
        self._apply = apply

    def set(self, key: str, text: str) -> list[str]:
        """Change one rule; return what a person should know. Raises SettingInvalid."""
        if key not in POLICY_KEYS:
            if key in SETTING_KEYS:
                raise SettingInvalid(
                    f"`{key}` is no rule of lending: it is read when the node starts",
                    hint=f"write it into `{self._home.folder / CONFIG_FILE}`",
                )
            check_setting(key, text)
        return self._change({key: text})

    def allow(self, node: NodeId) -> list[str]:
        """Lend to this node: take it from who is denied, and name it where names are kept."""
        lend = self.settings.lend
        changes = {}
        if node in lend.deny:
            changes[_DENIED] = _listed(other for other in lend.deny if other != node)
        if lend.to != "members" and node not in lend.to:
            named = () if isinstance(lend.to, str) else lend.to
            changes[_LENDS_TO] = _listed((*named, node))
        return self._change(changes)

    def deny(self, node: NodeId) -> list[str]:
        """Lend this node nothing."""
        lend = self.settings.lend
        changes = {}
        if node not in lend.deny:
            changes[_DENIED] = _listed((*lend.deny, node))
        if isinstance(lend.to, tuple) and node in lend.to:
            changes[_LENDS_TO] = _listed(other for other in lend.to if other != node) or "none"
        return self._change(changes)

    def _change(self, changes: dict[str, str]) -> list[str]:
        notes = []
        for key, text in changes.items():
            check_setting(key, text)
            origin = self.settings.origins[key]
            if origin in _OUTRANKING:
                notes.append(
                    f"{key} was given by the {origin}: given so again, that counts at the next "
                    "start"
                )
            set_in_config(self._home.folder / CONFIG_FILE, key, text)
            self.settings = with_setting(self.settings, key, text, origin=CONFIG_FILE)
        if changes:
            self._apply(self.settings)
        return notes


def _listed(nodes: Iterable[NodeId]) -> str:
    return ",".join(nodes)
