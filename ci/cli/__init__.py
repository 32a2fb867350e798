"""The verbs of the command line, by room: one verb is one function, and says in its docstring what it is for."""
