"""Trials before a training: one batch, and a few batches learnt by heart."""
