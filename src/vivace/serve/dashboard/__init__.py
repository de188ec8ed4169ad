"""The page at `/`: its files, and the numbers that it asks for while somebody looks."""
