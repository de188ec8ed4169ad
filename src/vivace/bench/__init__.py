"""Speed, measured on the engine that serves and set beside what the machine could do at most."""
