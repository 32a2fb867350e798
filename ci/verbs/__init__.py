"""The verbs that the workflows call: one verb a module. The environment comes in as a frozen record."""
