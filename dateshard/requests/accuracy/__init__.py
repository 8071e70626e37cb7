"""What is measured of models of requests on held-out data: errors beside baselines, coverage, and what plots show."""
