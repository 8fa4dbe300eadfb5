"""What the shell is told. 0: done; 2: wrong usage, from the command-line library."""

FAILED = 1  # a failure that the message explains
TARGET_MISSED = 3  # less went than was asked, or a budget stopped the run
FAULT = 70  # an error of our own
