"""The sections of benches/gpu.py."""
