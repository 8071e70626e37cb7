"""Measures one epoch of the configured model, fed in several ways, each in a process of its own."""
