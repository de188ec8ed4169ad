"""Vivace makes a language model fast on the machine you have, and proves it."""
