"""Predictions: will a model fit a machine, and how fast will it be there."""
