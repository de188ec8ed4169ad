"""The closed loop: try techniques on this machine, judge speed and quality, write the configuration with reasons."""
