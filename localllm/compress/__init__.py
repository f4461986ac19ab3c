"""Making models smaller: what is measured for it, and what is done with that."""
