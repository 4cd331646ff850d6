"""How answers look: plain text that reads well without colour and in a pipe."""
