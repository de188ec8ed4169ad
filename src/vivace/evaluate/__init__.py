"""Output quality, measured on the engine that serves."""
