"""Tool calls: how each model family is told of tools, and how its calls are read and enforced."""
