"""Models into smaller files, and into the files of others."""
