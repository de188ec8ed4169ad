"""The CPU backend: thin wrappers over the native module, which only this package imports."""
