"""What developers run: generated contracts, the configuration table, the picture."""
