"""How the times of dumps are read: ISO texts, numbers and patterns, of any zone, and the hours that a clock shows twice."""
