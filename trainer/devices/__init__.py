"""Where training runs: on which device, and in which of several processes."""
