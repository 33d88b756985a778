"""What we compare with: each peer in a virtual environment of its own, run as a child process."""
