"""The jobs of the service: their table, the supervisor that starts and watches processes, and what those processes do."""
