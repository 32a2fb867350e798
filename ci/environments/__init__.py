"""Environments of subjects: a base built by trusted code, and for each job a thin overlay built in a sandbox."""
