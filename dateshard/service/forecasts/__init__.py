"""Forecasts of finished jobs from a process of their own, in which the models stay loaded."""
