"""What can be asked of the explorer's server, by the views that ask it."""
