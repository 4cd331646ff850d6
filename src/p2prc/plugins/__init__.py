"""Plugins: Ansible playbooks for containers, in folders as P2PRC has them (docs/plugins.md).

`folder` reads one, `go_template` fills in its ports, `pulling` brings one here without running
anything, `used_ports` keeps which ports are taken, and `playbook` runs one on one container.
"""
