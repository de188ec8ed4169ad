"""One run, or a sweep of several, as one self-contained HTML page."""
