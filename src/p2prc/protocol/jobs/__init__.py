"""A job as a ledger: its description, the facts about its tasks, and who carries it on.

The description never changes; facts are only ever added; the job's state is a pure function of
the set of facts. Whoever holds both can carry the job on: execution is at least once, acceptance
once.
"""
