"""Trajectories from elsewhere and to elsewhere: formats, the tasks they belong to, and the replay that proves them."""
