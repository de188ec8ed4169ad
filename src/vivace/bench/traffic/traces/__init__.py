"""Published traces of real services, read row by row: one module a format."""
