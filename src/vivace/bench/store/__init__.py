"""Results that stay: every run, its requests and samples, in one SQLite file that survives a killed process."""
