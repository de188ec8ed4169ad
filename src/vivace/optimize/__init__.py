"""The closed loop: try the techniques on this machine, judge speed and quality, write the configuration with its reasons."""
