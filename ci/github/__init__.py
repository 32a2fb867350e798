"""Everything about GitHub: events, comment commands, the gate, the API client, workflow commands."""
