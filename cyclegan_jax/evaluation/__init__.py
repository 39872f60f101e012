"""How good translations are, as numbers."""
