"""The core: pure decisions about one event, and the order in which they are asked for."""
