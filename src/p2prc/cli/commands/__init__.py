"""The commands, a module for each group of them; `main` imports the one that was typed."""
