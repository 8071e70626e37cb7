"""What a file system is asked for: files that survive a power cut, and locks."""
