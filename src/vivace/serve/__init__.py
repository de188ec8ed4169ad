"""The HTTP server: connections, validation, text and admission in front of an engine process."""
