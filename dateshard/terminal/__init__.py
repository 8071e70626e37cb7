"""What a person at a terminal sees and does: text, tables and progress, and the signals that stop a command."""
