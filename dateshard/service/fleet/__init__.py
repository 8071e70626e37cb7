"""How many replicas of a model serve a load: what a plan would have cost and missed, and the socket that tells an autoscaler."""
