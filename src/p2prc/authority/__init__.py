"""Who may do what: membership chains and tickets (the only importer of biscuit)."""
