"""One file for each published layout; `registry.READERS` names them."""
