"""Looks at somebody's own raw files and guesses the configuration that reads them."""
