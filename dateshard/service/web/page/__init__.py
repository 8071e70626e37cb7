"""The page in the browser: its files, and the answers that it alone asks for."""
