"""A backtest: one model trained and judged at several origins in time, each on statistics of its own training dates."""
