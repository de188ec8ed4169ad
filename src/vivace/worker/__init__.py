"""The engine in a process of its own: what the front says to it, and how it survives its death."""
