"""Global statistics and what is made of them: partials of a date, their merge, transforms and scales."""
