"""What the service shows of datasets and of finished work: calendars, and reports made in processes of their own."""
