"""Pictures in plain SVG and pages in plain HTML: no scripts from elsewhere, no library."""
