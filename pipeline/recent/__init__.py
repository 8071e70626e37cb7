"""Dumps and committed dates, read and encoded as preprocess does, to forecast from or to train on. Nothing is published."""
