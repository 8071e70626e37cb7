"""What a model is worth, and what it forecasts: evaluations, predictions, their tables."""
