"""Training of the starter models, from a folder of photographs to the files that ship with the pack."""
