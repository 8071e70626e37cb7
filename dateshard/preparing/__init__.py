"""The offline stage at the front door: preprocess and its words, states of dates, how long things take, export."""
