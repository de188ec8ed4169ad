"""Every operation by its definition, on NumPy: slow, and right."""
