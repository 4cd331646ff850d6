r"""The embedded runtime: a bubblewrap sandbox, a supervisor outside it and an agent inside.

```
daemon (adapter) --- nursery (supervisor.py) -- forks --> supervisor, one per lease
       \______________ lease socket ______________________/      |  spawns
                                                          bwrap [ agent [ command ] ]
```

Everything but `adapter`, `cores` and `assets` runs in the supervisors, which know only the
standard library: keep imports there few and this file empty, for every lease pays for them.
"""
