"""The adapter to the real Fast-LLM: https://github.com/ServiceNow/Fast-LLM."""
