"""What can be under test, spoken to file to file."""
