"""The interface between methods and everything that runs them."""
