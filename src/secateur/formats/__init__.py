"""Models and data in and out of files. Nothing here unpickles, compiles or evaluates what a file holds."""
