"""`deploy`: `plan` reads the file, `machine` reaches a machine, `bring_up` does what is missing."""
