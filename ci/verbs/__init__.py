"""What the workflows call: one verb a module, each taking what the environment said as a frozen record."""
