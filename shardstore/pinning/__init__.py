"""Which generations training runs need: pins, and the id of the runs folder that they name."""
