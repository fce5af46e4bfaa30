"""Training: the loop, the schedule, and what is trained."""
