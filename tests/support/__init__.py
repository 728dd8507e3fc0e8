"""What several tests need: the product as a process, events, and readers of its audit."""
