"""Dates, instants and steps of a calendar with time zones, and how people write them."""
