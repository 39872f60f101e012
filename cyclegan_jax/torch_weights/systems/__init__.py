"""Names and layouts of the parameters of our networks in published programs, one module each."""
