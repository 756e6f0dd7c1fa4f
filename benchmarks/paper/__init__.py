"""The FAB paper's comparison of methods, with one trainer and one flow."""
