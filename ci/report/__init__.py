"""From JUnit files to results to text. Imports neither torch nor transformers, and trusts no byte that it reads."""
