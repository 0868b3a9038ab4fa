"""Training of the small models that ship with the project, from nothing, on clips that are made on the fly."""
