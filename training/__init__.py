"""Training of DynFocus models."""
