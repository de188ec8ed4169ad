"""Guessing tokens cheaply and verifying them in one step: exactly the text that comes without."""
