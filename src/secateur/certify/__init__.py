"""Claims about a pruned network, and what others need to check them."""
