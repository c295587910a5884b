"""The one exception that is meant for the person at the keyboard."""


class UserError(ValueError):
    """One sentence for the user: what is wrong, where, what to do. `main` prints it and exits with status 2."""
