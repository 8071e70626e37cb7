"""The training service: jobs that are started, watched, paused and resumed over HTTP, and never depend on who watches.

`jobs` keeps the table of jobs and runs each in a process of its own; `web` answers requests and never imports torch.
"""
