"""Properties that hold for every capture, however it was cut, shuffled or damaged."""
