"""What a run leaves behind: the recipe, from which the same pruned model is rebuilt bit for bit."""
