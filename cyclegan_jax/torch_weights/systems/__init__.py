"""How published programs name and lay out the parameters of our networks, one module for each."""
