"""Words that everyone shares: errors, configuration values, sampling parameters, sequences, steps, events."""
