"""Forecasts of LLM request traces: the next request, and the requests and tokens of an interval some minutes ahead."""
