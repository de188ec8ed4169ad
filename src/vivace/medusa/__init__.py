"""Training Medusa heads for any model that the engine runs, without a training framework."""
