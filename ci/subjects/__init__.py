"""What can be under test, and Hugging Face's side: requests and results are files and records."""
