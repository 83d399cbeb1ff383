"""What is known of a video before any question: states, their files and their making."""
