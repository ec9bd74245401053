"""The tasks that networks learn: one a module, each with a class `Task`."""
