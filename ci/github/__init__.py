"""Everything that knows GitHub: events, commands, the gate, the client, workflow commands."""
